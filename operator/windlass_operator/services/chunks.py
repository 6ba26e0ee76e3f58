"""A long listing in parts that one statement can take."""

from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def chunks(items: AsyncIterator[T], size: int) -> AsyncIterator[list[T]]:
    """Yield items in lists of ``size``, the last one shorter; of no items, none."""
    some: list[T] = []
    async for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
