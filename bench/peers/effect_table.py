"""The table in which effects are counted. It is in a database of its own and filled when a burst is over."""

from collections import Counter
from pathlib import Path

import psycopg

from bench.peers.effects import read_effects


class EffectTable:
    """Effects of all contestants.

    Args:
        uri: Of a database that nobody else uses.
    """

    def __init__(self, uri: str) -> None:
        self._connection = psycopg.connect(uri, autocommit=True)
        self._connection.execute("CREATE TABLE effect (contestant text, key text, at bigint)")

    def load(self, contestant: str, file: Path) -> None:
        """Take in what bodies have noted since the last time."""
        found = read_effects(file)
        with self._connection.cursor().copy("COPY effect FROM STDIN") as copy:
            for key, at in found:
                copy.write_row((contestant, key, at))
        file.write_bytes(b"")  # the writers append, so they go on at its new end

    def counted(self, contestant: str, prefix: str) -> Counter[str]:
        """Return how often the body of each key with this beginning ran."""
        query = "SELECT key, count(*) FROM effect WHERE contestant = %s AND starts_with(key, %s) GROUP BY key"
        return Counter(dict(self._connection.execute(query, (contestant, prefix)).fetchall()))

    def first(self, contestant: str, prefix: str) -> dict[str, int]:
        """Return when the body of each key with this beginning ran first."""
        query = "SELECT key, min(at) FROM effect WHERE contestant = %s AND starts_with(key, %s) GROUP BY key"
        return dict(self._connection.execute(query, (contestant, prefix)).fetchall())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
