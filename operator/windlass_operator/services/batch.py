"""Natural batching: flush at once when idle, else everything that queued during the last flush goes in one statement.

A lone caller waits for nobody; a crowd shares one commit. Answers come only after the flush has committed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from windlass_operator.domain.errors import LedgerUnavailableError

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Batch(Generic[T, R]):
    """A writer that many callers share.

    Args:
        flush: Writes the items and returns one answer for each, in order.
        limit: Most items of one flush.
    """

    def __init__(self, flush: Callable[[list[T]], Awaitable[list[R]]], *, limit: int = 500) -> None:
        self._flush = flush
        self._limit = limit
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is being written, and nothing waits."""
        return self._task is None and not self._waiting

    async def __call__(self, item: T) -> R:
        """Write one item and return its answer, after the commit."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._write(batch)
        finally:
            self._task = None

    async def _write(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, LedgerUnavailableError):
                # One item that the server refuses must not fail the others: each again by itself.
                for single in batch:
                    await self._write([single])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


class Batches(Generic[K, T, R]):
    """A batch for each key: those of different keys do not wait for each other.

    Args:
        flush: Writes the items of a key and returns one answer for each, in order.
        limit: Most items of one flush.
    """

    def __init__(self, flush: Callable[[K, list[T]], Awaitable[list[R]]], *, limit: int = 500) -> None:
        self._flush = flush
        self._limit = limit
        self._batches: dict[K, Batch[T, R]] = {}

    async def __call__(self, key: K, item: T) -> R:
        """Write one item and return its answer."""
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = Batch(partial(self._flush, key), limit=self._limit)
        try:
            return await batch(item)
        finally:
            if batch.idle and self._batches.get(key) is batch:
                del self._batches[key]
