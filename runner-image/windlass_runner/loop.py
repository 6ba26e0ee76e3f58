"""The one loop of process 1: descriptors that can be read, and calls that other threads ask for."""

import contextlib
import os
import selectors
from collections import deque
from collections.abc import Callable


class Loop:
    """Calls what is registered. Everything but :meth:`post` belongs to the thread that turns it.

    Args:
        wake: Read and write end of a pipe that does not block. Signals and threads write to it.
    """

    def __init__(self, wake: tuple[int, int]) -> None:
        self._wake_read, self._wake_write = wake
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self.watch(self._wake_read, self._woken)

    def watch(self, descriptor: int, ready: Callable[[int], object]) -> None:
        """Call ``ready`` with the descriptor whenever there is something to read."""
        self._selector.register(descriptor, selectors.EVENT_READ, ready)

    def forget(self, descriptor: int) -> None:
        """Watch it no more, and close it."""
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Watch it no more; one that is not watched is fine."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def post(self, call: Callable[[], None]) -> None:
        """Let the loop's thread call this soon. From any thread."""
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # full: the loop wakes anyway
            os.write(self._wake_write, b"c")

    def turn(self, seconds: float) -> None:
        """Wait until something is ready, for some seconds at most, and call for it."""
        watched = self._selector.get_map()
        for key, _ in self._selector.select(max(0.0, seconds)):
            # What was called before may have closed it, and its number may stand for something else by now.
            if watched.get(key.fd) is key:
                with contextlib.suppress(BlockingIOError):
                    key.data(key.fd)

    def _woken(self, descriptor: int) -> None:
        os.read(descriptor, 1024)
        while self._calls:
            self._calls.popleft()()
