"""A DBOS application in the peers' own environment that takes runs from a queue until its input ends.

Argument: JSON with ``uri``, ``effects`` (a file), ``settings`` (of DBOS) and ``queue`` (of its queue).
"""

import json
import sys
from typing import Any

from dbos import DBOS

from bench.peers.effects import Effects

ORDER = json.loads(sys.argv[1])
EFFECTS = Effects(ORDER["effects"])


async def _noop(key: str, _: int) -> str:
    """Do nothing, once."""
    EFFECTS.note(key)
    return key


async def _tick(key: str, n: int) -> int:
    """Do nothing, once for each number."""
    EFFECTS.note(f"{key}#{n}")
    return n


tick = DBOS.step(name="tick")(_tick)


async def _steps(key: str, count: int) -> str:
    """Do so many steps, one after the other."""
    for n in range(count):
        await tick(key, n)
    return key


noop = DBOS.workflow(name="noop")(_noop)
steps = DBOS.workflow(name="steps")(_steps)


def main() -> None:
    """Work until the input ends."""
    config: Any = {"name": "bench", "system_database_url": ORDER["uri"], "log_level": "ERROR", **ORDER["settings"]}
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue("bench", **ORDER["queue"])
    print("ready", flush=True)
    sys.stdin.read()
    DBOS.destroy()


if __name__ == "__main__":
    main()
