"""Running one attempt: here, where mocks and debuggers work, or in a forked process that can be killed."""

import contextlib
import gc
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import msgspec

from windlass import clock, execution, protocol
from windlass.errors import AttemptClosedError
from windlass.tasks import Task
from windlass.testing.errors import TestingError
from windlass.transport import HttpTransport

_PATIENCE: Final = timedelta(seconds=20)
"""For the runtime API, which is a process of ours: longer and it is gone."""


class AttemptTransport(HttpTransport):
    """The transport of an attempt that reports its own end, as process 1 of a pod does elsewhere."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(url, token, give_up_after=_PATIENCE)

    def complete(self, request: protocol.CompleteRequest) -> None:
        """Report the end of an attempt."""
        self._call("POST", "/complete", msgspec.json.encode(request))

    def fail(self, request: protocol.FailRequest) -> None:
        """Report that an attempt has failed."""
        self._call("POST", "/fail", msgspec.json.encode(request))


@dataclass(frozen=True)
class Ready:
    """An attempt that is to be run.

    Attributes:
        task: Its code.
        attempt: What the claim brought.
        url: Of the runtime API.
        now: The time in the test.
        skip: Lets seconds of it pass.
    """

    task: Task[Any, Any]
    attempt: protocol.ClaimedAttempt
    url: str
    now: Callable[[], Any]
    skip: Callable[[float], None]


def run_here(ready: Ready) -> None:
    """Run an attempt in this thread."""
    transport = AttemptTransport(ready.url, ready.attempt.token)
    try:
        with _time_of(ready):
            report(execution.execute(ready.task, ready.attempt, transport), transport)
    except AttemptClosedError:
        pass  # cancelled, or over its time: the ledger knows
    finally:
        transport.close()


def report(finished: execution.Finished, transport: AttemptTransport) -> None:
    """Tell the API what came of an attempt.

    Raises:
        KeyboardInterrupt: That is what came of it: it is meant for the test, not for the task.
    """
    if finished.fail is not None and finished.fail.failure.type == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if finished.complete is not None:
        transport.complete(finished.complete)
    elif finished.fail is not None:
        transport.fail(finished.fail)


@contextlib.contextmanager
def _time_of(ready: Ready) -> Iterator[None]:
    """Tell the code the time of the test; every wait is durable then, also those that are short elsewhere."""
    clock.follow(ready.now, ready.skip)
    try:
        yield
    finally:
        clock.follow(None)


def run_forked(ready: Ready, call: Callable[[], None], *, limit: timedelta) -> int:
    """Run an attempt in a copy of this process and return how that ended, negative for a signal.

    Args:
        ready: The attempt.
        call: Runs it, in the copy.
        limit: How long it may take.

    Raises:
        TestingError: It took longer.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what they hold would be written by both
    lifeline, kept = os.pipe()
    gc.freeze()  # a collection in the copy would touch, and so copy, everything that there is
    with warnings.catch_warnings():
        # The threads of a test session wait for pipes; none of them holds what the copy needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(lifeline)
        _in_the_copy(ready, call)
    gc.unfreeze()
    os.close(kept)
    try:
        over, _, _ = select.select([lifeline], [], [], limit.total_seconds())
    except BaseException:
        over = []
        raise
    finally:
        os.close(lifeline)
        if not over:
            _kill(pid)
        _, status = os.waitpid(pid, 0)
        _kill(pid)  # whatever it started ends with it, as with a pod
    if not over:
        raise TestingError(
            f"An attempt of {ready.attempt.task!r} took longer than {limit.total_seconds():g} s in a forked process. "
            "If it really needs that, raise attempt_limit=; a lock that another thread of the test holds is never free."
        )
    return os.waitstatus_to_exitcode(status)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
            return


def _in_the_copy(ready: Ready, call: Callable[[], None]) -> NoReturn:
    code = 70
    try:
        os.setsid()  # so that whatever it starts can be ended with it
        clock.follow(ready.now, ready.skip)
        with contextlib.suppress(AttemptClosedError):
            call()
        code = 0
    except BaseException:  # the edge: what goes wrong here must be seen, and must not run the rest of the test
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)
