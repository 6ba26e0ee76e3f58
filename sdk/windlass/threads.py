"""Threads that are branches of a run, so that steps in them keep their keys and waits in them hold no pod."""

import concurrent.futures
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from windlass.branches import Branch, as_thread, joining, tick

P = ParamSpec("P")
R = TypeVar("R")


async def to_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a synchronous function in a thread, as a branch of the run. Like ``asyncio.to_thread``."""
    import asyncio

    call, branch = as_thread(lambda: function(*args, **kwargs))
    with joining([branch] if branch is not None else []):
        return await asyncio.get_running_loop().run_in_executor(None, call)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A thread pool whose calls are branches of the run, numbered in the order in which they are submitted.

    A run whose threads all wait durably holds no pod, as long as its main line waits for them by ``result()``, by
    ``map()`` or by leaving the pool's ``with`` block.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._branches: list[Branch] = []
        self.size: int = self._max_workers
        """Threads at most."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[R]":
        """Run a call in a thread of the pool."""
        call, branch = as_thread(lambda: fn(*args, **kwargs))
        if branch is not None:
            branch.pool = self
            self._branches.append(branch)
        future = super().submit(call)
        if branch is not None:
            _watch(future, branch)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the threads; see the base class."""
        with joining(self._branches if wait else []):
            super().shutdown(wait, cancel_futures=cancel_futures)


def _watch(future: "concurrent.futures.Future[Any]", branch: Branch) -> None:
    """Let the future tell who asks for its end, and when.

    Without a timeout its caller waits for this branch alone. And what the code does before it learns of an error in the
    thread is not done because of it.
    """
    branch.watched = True

    def noting(ask: Callable[[float | None], Any]) -> Callable[[float | None], Any]:
        def look(timeout: float | None = None) -> Any:
            try:
                with joining([branch] if timeout is None else []):
                    return ask(timeout)
            finally:
                if branch.error is not None and branch.seen is None:
                    branch.seen = tick()

        return look

    vars(future).update(result=noting(future.result), exception=noting(future.exception))
