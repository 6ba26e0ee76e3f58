"""Waiting for something to become true, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]], enough: Callable[[T], bool] = bool, *, seconds: float = 20.0
) -> T:
    """Return the first answer that is enough; fail with the last one after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        seen = await look()
        if enough(seen):
            return seen
        if time.monotonic() > until:
            raise AssertionError(f"still not after {seconds} s: {seen!r}")
        await asyncio.sleep(0.02)
