"""A procrastinate application in the peers' own environment: what its workers and clients import.

The second argument of the process is JSON with ``uri``, ``effects`` (a file), ``pool`` (connections) and ``worker``
(settings of a worker).
"""

import json
import sys

import procrastinate

from bench.peers.effects import Effects

ORDER = json.loads(sys.argv[2])
EFFECTS = Effects(ORDER["effects"])
CONNECTOR = procrastinate.PsycopgConnector(conninfo=ORDER["uri"], min_size=ORDER["pool"], max_size=ORDER["pool"])
APP = procrastinate.App(connector=CONNECTOR)


async def _noop(key: str) -> None:
    """Do nothing, once."""
    EFFECTS.note(key)


noop = APP.task(name="noop")(_noop)
