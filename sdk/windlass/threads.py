"""Threads that are branches of a run, so that steps in them keep their keys."""

import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from windlass.branches import as_thread

P = ParamSpec("P")
R = TypeVar("R")


async def to_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a synchronous function in a thread, as a branch of the run. Like ``asyncio.to_thread``."""
    import asyncio

    call = as_thread(lambda: function(*args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(None, call)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A thread pool whose calls are branches of the run, numbered in the order in which they are submitted."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[R]":
        """Run a call in a thread of the pool."""
        return super().submit(as_thread(lambda: fn(*args, **kwargs)))
