"""Bodies of Temporal's activities, and what they leave. Not imported anew for each workflow, as workflows are."""

import json
import sys

from temporalio import activity

from bench.peers.effects import Effects

ORDER = json.loads(sys.argv[2])
EFFECTS = Effects(ORDER["effects"])
DONE = [0]
"""Steps whose body has run."""


async def _note(key: str) -> str:
    """Do nothing, once."""
    EFFECTS.note(key)
    return key


async def _tick(key: str, n: int) -> int:
    """Do nothing, once for each number."""
    DONE[0] += 1
    EFFECTS.note(f"{key}#{n}")
    return n


note = activity.defn(name="note")(_note)
tick = activity.defn(name="tick")(_tick)
