"""A Restate service in the peers' own environment, served by hypercorn as its documentation does."""

import time
from typing import Any

import restate

DONE = [0]
"""Steps whose body has run."""


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


service = restate.Service("bench")
service.handler("steps")(_steps)
app = restate.app([service])
