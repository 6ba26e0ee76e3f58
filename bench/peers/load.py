"""The client side of the warm rows: triggers runs singly and waits for each result. Standard library only.

A client process reads orders, one JSON object in a line, and answers each in JSON. All contestants' clients share
this loop; what differs is how one run is triggered and how its result is read.
"""

import asyncio
import concurrent.futures
import itertools
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable

Trigger = Callable[[str, str, int], Awaitable[object]]
"""Takes task, key and argument, triggers one run, and returns its result when that can be read."""
_THREADS = 128
"""Some clients call blocking libraries in threads; asyncio's own pool has as many as there are cores and four more."""


async def serve(trigger: Trigger) -> None:
    """Answer orders until the input ends."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(_THREADS))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await fulfil(trigger, **json.loads(line))), flush=True)


async def fulfil(
    trigger: Trigger, *, task: str, prefix: str, count: int, at_once: int, argument: int = 0, pause: float = 0.0
) -> list[list[object]]:
    """Trigger so many runs, so many at once, and return key, time of the trigger and time of the result of each.

    Args:
        trigger: Does one run.
        task: ``noop`` or ``steps``.
        prefix: Of the keys, which no other order has.
        count: How many runs.
        at_once: How many clients, each of which waits for its result before it triggers again.
        argument: The number of steps.
        pause: Seconds, on average, that a client waits between two runs, so that the worker is idle again.

    Raises:
        RuntimeError: A result was not the one of that run.
    """
    numbers = itertools.count()
    done: list[list[object]] = []

    async def client() -> None:
        while (number := next(numbers)) < count:
            if pause:
                await asyncio.sleep(random.uniform(0.5 * pause, 1.5 * pause))
            key = f"{prefix}-{number}"
            began = time.monotonic_ns()
            result = await trigger(task, key, argument)
            done.append([key, began, time.monotonic_ns()])
            if result != key:
                raise RuntimeError(f"the result of {key} is {result!r}")

    await asyncio.gather(*(client() for _ in range(at_once)))
    return done
