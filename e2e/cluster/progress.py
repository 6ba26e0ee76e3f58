"""Lines that tell a waiting person what goes on: one per stage with its seconds, and a heartbeat in long ones."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEARTBEAT_S = 10.0
"""How long a stage may be silent. A build takes minutes; silence would look like a hang."""


def say(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(line, flush=True)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage and print its line when it has succeeded; a failed one is told by its error."""
    started = time.monotonic()
    yield
    say(f"{time.monotonic() - started:7.1f} s  {name}")


@contextmanager
def heartbeat(name: str, detail: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Print a line every ten seconds while the body runs."""
    started = time.monotonic()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            extra = detail()
            say(f"       …    {name}, {time.monotonic() - started:.0f} s" + (f": {extra}" if extra else ""))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
