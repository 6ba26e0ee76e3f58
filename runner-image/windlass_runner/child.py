"""The child: runs one attempt in a process and session of its own, with no credential but the attempt's token."""

import contextlib
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, TextIO

import msgspec

from windlass import execution, protocol
from windlass.errors import AttemptClosedError, LoadError
from windlass.transport import HttpTransport
from windlass_runner import exit_codes, outcome
from windlass_runner.config import arm_failpoints


@dataclass(frozen=True)
class Child:
    """What a child gets: a file with its attempt, and the write ends of three pipes."""

    body: int | None
    """None for one that was forked ahead of need: then ``result`` is a socket, and the file comes from there."""
    stdout: int
    stderr: int
    result: int
    reused: bool = False
    """Other attempts run in this pod, now and later."""


OUTPUTS: list[TextIO] = []
"""Made ahead by a zygote that forks many children; empty where there is only one."""


def open_outputs() -> list[TextIO]:
    """Return output and errors as user code gets them, on descriptors 1 and 2."""
    return [os.fdopen(n, "w", buffering=1, errors="backslashreplace", closefd=False) for n in (1, 2)]


def run_child(child: Child, problem: protocol.Failure | None) -> NoReturn:
    """Run the attempt and leave the process. Never returns, so nothing of the parent's stack runs twice."""
    code = 70
    us = os.getpid()
    try:
        os.setsid()  # a group of its own: a timeout ends everything that the user's code started
        os.dup2(child.stdout, 1)
        os.dup2(child.stderr, 2)
        for descriptor in (child.stdout, child.stderr):
            os.close(descriptor)  # user code that closes its output closes it
        sys.stdout, sys.stderr = OUTPUTS or open_outputs()
        if child.reused:
            from windlass_runner import sharing

            sharing.prepare_child()
            if child.body is None and not select.select([child.result], [], [], 0)[0]:
                # Pages that we share with the zygote are copied now, and not when there is an attempt.
                sharing.rehearse_once()
        signal.signal(signal.SIGUSR1, lambda *_: execution.request_cancel())
        signal.signal(signal.SIGUSR2, lambda *_: execution.request_stop())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        body = _wait(child.result) if child.body is None else child.body
        try:
            finished = _run(child, body, problem)
        except AttemptClosedError:
            finished = execution.Finished()
        if os.getpid() != us:
            os._exit(0)  # user code forked, and the copy came back from the task too: it has nothing to report
        _report(child, finished)
        code = exit_codes.USER_FAILURE if finished.fail else exit_codes.DONE
    finally:
        os._exit(code)


def _wait(descriptor: int) -> int:
    """Return the file with the attempt of a child that was forked ahead of need."""
    channel = socket.socket(fileno=descriptor)
    body, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not body:  # nobody needs us any more
        os._exit(exit_codes.DONE)
    os.lseek(descriptors[0], 0, os.SEEK_SET)  # process 1 sees by this that the attempt is ours
    channel.detach()
    return descriptors[0]


def _report(child: Child, finished: execution.Finished) -> None:
    _flush()
    left: outcome.Left = "suspended" if finished.suspended else "stopped" if finished.stopped else ""
    _write(child.result, outcome.encode(finished.complete, finished.fail, left=left))
    if "opentelemetry.trace" in sys.modules:
        from windlass import traces

        traces.flush()  # we end by _exit, which runs no exit handlers


def _leave(child: Child, how: execution.Finished) -> None:
    """End the process of a run that goes on elsewhere, and perhaps later. Nothing of the user's code is undone."""
    try:
        _report(child, how)
    finally:
        os._exit(exit_codes.DONE)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # user code may have closed or replaced it
            stream.flush()


def _run(child: Child, body: int, problem: protocol.Failure | None) -> execution.Finished:
    arm_failpoints("child")
    attempt = _attempt(body)
    if problem is not None:
        return execution.Finished(fail=protocol.FailRequest(failure=problem))
    if attempt.traceparent is not None:
        os.environ["TRACEPARENT"] = attempt.traceparent
    transport = HttpTransport(os.environ["WINDLASS_URL"], attempt.token)
    try:
        task = execution.load_task(attempt.entrypoint, attempt.source)
    except LoadError as error:
        return execution.Finished(fail=protocol.FailRequest(failure=error.failure))
    waits = partial(_leave, child, execution.Finished(suspended=True))
    stops = partial(_leave, child, execution.Finished(stopped=True))
    return execution.execute(task, attempt, transport, waits, stops)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
    os.close(descriptor)


def _attempt(body: int) -> protocol.ClaimedAttempt:
    """Read the attempt, wherever in the file whoever wrote it has left off."""
    data, size = b"", os.fstat(body).st_size
    while len(data) < size:
        data += os.pread(body, size - len(data), len(data))
    os.close(body)
    return msgspec.json.decode(data, type=protocol.ClaimedAttempt)


BODY: Final = 10
"""First of a spawned child's four descriptors."""


def main() -> NoReturn:
    """Entry of a spawned child."""
    run_child(Child(BODY, BODY + 1, BODY + 2, BODY + 3, reused=len(sys.argv) > 1), None)
