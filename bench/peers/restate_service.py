"""Restate services in the peers' own environment, served by hypercorn as its documentation does."""

import os
import time
from typing import Any

import restate

from bench.peers.effects import Effects

DONE = [0]
"""Steps whose body has run."""
EFFECTS = Effects(os.environ.get("WINDLASS_BENCH_EFFECTS", os.devnull))


async def _tick(n: int) -> int:
    DONE[0] += 1
    return n


async def _steps(ctx: Any, count: int) -> dict[str, Any]:
    """Answer the times of so many steps, and how often a body ran."""
    DONE[0], times = 0, []
    for n in range(count):
        began = time.perf_counter()
        await ctx.run_typed("tick", _tick, n=n)
        times.append((time.perf_counter() - began) * 1000)
    return {"times": times, "effects": DONE[0]}


async def _noop(_: Any, call: dict[str, Any]) -> str:
    """Do nothing, once."""
    EFFECTS.note(call["key"])
    return str(call["key"])


async def _counted(key: str, n: int) -> int:
    EFFECTS.note(f"{key}#{n}")
    return n


async def _warm_steps(ctx: Any, call: dict[str, Any]) -> str:
    """Do so many steps, one after the other; each leaves an effect."""
    for n in range(call["count"]):
        await ctx.run_typed("tick", _counted, key=call["key"], n=n)
    return str(call["key"])


service = restate.Service("bench")
service.handler("steps")(_steps)
warm = restate.Service("warm")
warm.handler("noop")(_noop)
warm.handler("steps")(_warm_steps)
app = restate.app([service, warm])
