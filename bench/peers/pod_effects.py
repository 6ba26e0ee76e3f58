"""Effects of bodies in pods: each tells this process that it runs, once it has taken the time of its first line.

Nobody asks the API server for logs while pods start: that would take time from them.
"""

import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

_LENGTH: Final = 200
"""Bytes of a message at most: a name and a time."""


class LostEffectsError(RuntimeError):
    """A body did not run, or ran twice: the times mean nothing."""


class PodEffects:
    """Takes one connection for each time that a body ran.

    Args:
        address: On which pods reach this process.
    """

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0), backlog=256)
        self._changed = threading.Condition()
        self._found: defaultdict[str, list[float]] = defaultdict(list)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where this process listens."""
        host, port = self._server.getsockname()
        return host, port

    @property
    def code(self) -> str:
        """Lines of Python that tell this process ``name`` and ``at``."""
        connect = f"with socket.create_connection({self.address!r}) as told:"
        return f"import socket\n{connect}\n    told.sendall(f'{{name}} {{at}}'.encode())\n"

    def wait(self, names: Iterable[str], seconds: float) -> bool:
        """Wait until all these have told something, and return whether they have in that time."""
        wanted = set(names)
        with self._changed:
            return self._changed.wait_for(lambda: wanted <= self._found.keys(), seconds)

    def times(self, names: Iterable[str]) -> list[float]:
        """Return the Unix time of the first line of each of these.

        Raises:
            LostEffectsError: A body has not run exactly once.
        """
        with self._changed:
            found = {name: list(self._found.get(name, [])) for name in names}
        if wrong := {name: len(times) for name, times in found.items() if len(times) != 1}:
            raise LostEffectsError(f"how often these ran, and should have once: {wrong}")
        return [times[0] for times in found.values()]

    def close(self) -> None:
        """End."""
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                told = b""
                while len(told) < _LENGTH and (more := connection.recv(_LENGTH)):
                    told += more
            name, _, at = told.decode().partition(" ")
            if at:
                with self._changed:
                    self._found[name].append(float(at))
                    self._changed.notify_all()


@contextmanager
def pod_effects(address: str) -> Iterator[PodEffects]:
    """Listen for the duration of the block."""
    effects = PodEffects(address)
    try:
        yield effects
    finally:
        effects.close()
