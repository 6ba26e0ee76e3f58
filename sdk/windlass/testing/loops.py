"""Synchronous calls from tests that may be asynchronous."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def off_the_loop(call: Callable[[], T]) -> T:
    """Call something that may run event loops of its own: in another thread, where this one has a loop that runs."""
    loop = asyncio._get_running_loop()  # noqa: SLF001 - public by asyncio's __all__
    if loop is None:
        return call()
    came: list[Any] = []

    def run() -> None:
        try:
            came.append((call(), None))
        except BaseException as error:  # handed over to the thread that waits
            came.append((None, error))

    thread = threading.Thread(target=run, name="windlass-testing")
    thread.start()
    thread.join()
    value, error = came[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]  # what the call returned
