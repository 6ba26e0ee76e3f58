"""The worker process of a pod that runs in-process: imports modules once, and runs many attempts at a time.

``async def`` tasks are tasks of one event loop, in the main thread; the others run in a thread each. What an attempt
has of its own (output, the run that it is, its place among the steps) is found by the context of the calling code.
"""

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import msgspec

from windlass import branches, execution, protocol
from windlass.code_ids import code_id
from windlass.connection import Connection
from windlass.context import Active, share_process
from windlass.errors import AttemptClosedError, LoadError
from windlass.failures import failure_of
from windlass.in_loop import execute_in_loop
from windlass.tasks import Task
from windlass.transport import HttpTransport
from windlass_runner import outcome, sharing
from windlass_runner.child import open_outputs
from windlass_runner.config import arm_failpoints
from windlass_runner.worker_channel import (
    CANCEL,
    ENDED,
    IMPORTING,
    PING,
    PONG,
    PRELOAD,
    READ,
    READY,
    SOCKET,
    START,
    STDERR,
    STDOUT,
    Frames,
    frame,
)
from windlass_runner.worker_output import HERE, AttemptOutput, SharedStream

_THREADS: Final = 512
"""Threads at most for synchronous attempts, and as many for what asynchronous code hands to threads."""
_FINISHED_CLOSED: Final = execution.Finished()


class _Attempt:
    """One attempt while it runs here."""

    def __init__(self, number: int, claimed: protocol.ClaimedAttempt, output: AttemptOutput) -> None:
        self.number = number
        self.claimed = claimed
        self.output = output
        self.active: Active | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.stopped = False
        self.handed_back = False

    def begun(self, active: Active) -> None:
        """Take in that its code starts, and tell it what was asked before. In the attempt's own thread."""
        self.active = active
        self._pass_on(active)

    def ask(self, *, cancel: bool) -> None:
        """Ask it to end, or to stop before its next step."""
        self.cancelled = self.cancelled or cancel
        self.stopped = self.stopped or not cancel
        if self.active is not None:
            self._pass_on(self.active)

    def _pass_on(self, active: Active) -> None:
        active.stop.asked = self.stopped
        if self.cancelled:
            execution.cancel(active)

    def hand_back(self) -> None:
        """Take in that its code has stopped because the pod must end."""
        self.handed_back = True


class WorkerServer:
    """Serves one socket.

    Args:
        channel: To process 1.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._frames = Frames()
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(branches.task_factory)
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncio"))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="windlass-attempt")
        self._url = os.environ["WINDLASS_URL"]
        self._idle: deque[Connection] = deque()
        self._loaded: dict[tuple[str, str | None], tuple[Task[Any, Any], str | None]] = {}
        self._to_load: deque[_Attempt] = deque()
        self._preload: str | None = None
        self._attempts: dict[int, _Attempt] = {}
        self._unsent: list[bytes] = []
        self._context = contextvars.copy_context()

    def run(self) -> NoReturn:
        """Serve until the other end is closed."""
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._channel.fileno(), self._read)
        while True:
            # What a task of the user's own ends with belongs to whoever awaits it.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
            # Modules are imported where no loop runs, as they would be anywhere else.
            if self._preload is not None:
                self._import(self._preload)
            while self._to_load:
                self._load(self._to_load.popleft())

    def _read(self) -> None:
        try:
            chunk = self._channel.recv(READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            chunk = b""
        if not chunk:
            _leave()
        for kind, number, body in self._frames.feed(chunk):
            if kind == START:
                self._start(number, body)
            elif kind == PING:
                self._send(frame(PONG))
            elif kind == PRELOAD:
                self._preload = body.decode()
                self._loop.stop()
            elif number in self._attempts:
                self._attempts[number].ask(cancel=kind == CANCEL)

    def _import(self, module: str) -> None:
        """Import a module ahead. What does not import is told to the first attempt that needs it."""
        self._preload = None
        if module:
            with contextlib.suppress(LoadError):
                execution.preload(module)
        _settle()
        self._send(frame(READY))

    def _start(self, number: int, body: bytes) -> None:
        claimed = msgspec.json.decode(body, type=protocol.ClaimedAttempt)
        one = self._attempts[number] = _Attempt(number, claimed, AttemptOutput(number, self._send))
        if (claimed.entrypoint, claimed.source) in self._loaded:
            self._begin(one)
        else:
            self._to_load.append(one)
            self._loop.stop()

    def _load(self, one: _Attempt) -> None:
        """Import the code of an attempt, which begins then. Its module's output is the attempt's."""
        name = (one.claimed.entrypoint, one.claimed.source)
        if name not in self._loaded:
            self._send(frame(IMPORTING, one.number))
            context = self._context.copy()
            context.run(HERE.set, one.output)
            try:
                task = context.run(execution.load_task, *name)
            except LoadError as error:
                self._end(one, execution.Finished(fail=protocol.FailRequest(failure=error.failure)))
                return
            finally:
                self._send(frame(IMPORTING))
            self._loaded[name] = task, code_id(*name)
            _settle()
        self._begin(one)

    def _begin(self, one: _Attempt) -> None:
        task, code = self._loaded[one.claimed.entrypoint, one.claimed.source]
        transport = HttpTransport(self._url, one.claimed.token, idle=self._idle)
        context = self._context.copy()
        context.run(HERE.set, one.output)
        if task.is_async and not one.claimed.compensating:
            running = self._run_async(one, task, transport, code)
            one.task = asyncio.Task(running, loop=self._loop, context=context)
        else:
            self._threads.submit(context.run, self._run_sync, one, task, transport)

    async def _run_async(self, one: _Attempt, task: Task[Any, Any], transport: HttpTransport, code: str | None) -> None:
        try:
            finished = await execute_in_loop(task, one.claimed, transport, one.hand_back, code=code, begun=one.begun)
        except AttemptClosedError:
            finished = _FINISHED_CLOSED
        except BaseException as error:  # whatever it is, somebody waits for the end
            finished = _failed(error)
        self._end(one, finished)

    def _run_sync(self, one: _Attempt, task: Task[Any, Any], transport: HttpTransport) -> None:
        try:
            finished = execution.execute(task, one.claimed, transport, hand_back=one.hand_back, begun=one.begun)
        except AttemptClosedError:
            finished = _FINISHED_CLOSED
        except BaseException as error:  # as above
            finished = _failed(error)
        self._loop.call_soon_threadsafe(self._end, one, finished)

    def _end(self, one: _Attempt, finished: execution.Finished) -> None:
        """Tell process 1, together with what else ends in this turn of the loop."""
        one.output.flush()
        self._attempts.pop(one.number, None)
        left: outcome.Left = "stopped" if one.handed_back else "suspended" if finished.suspended else ""
        body = outcome.encode(finished.complete, finished.fail, left=left)
        if not self._unsent:
            self._loop.call_soon(self._send_unsent)
        self._unsent.append(frame(ENDED, one.number, body))

    def _send_unsent(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._channel.sendall(data)
        except OSError:  # process 1 is gone, and nobody waits for anything
            _leave()


def _failed(error: BaseException) -> execution.Finished:
    return execution.Finished(fail=protocol.FailRequest(failure=failure_of(error)))


def _settle() -> None:
    gc.collect()
    gc.freeze()  # modules stay: a collection need not look at them again


def _leave() -> NoReturn:
    """End the process, whatever its threads do."""
    with contextlib.suppress(BaseException):
        if "opentelemetry.trace" in sys.modules:
            from windlass import traces

            traces.flush()  # _exit runs no exit handlers
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
    os._exit(0)


def main() -> NoReturn:
    """Serve process 1."""
    os.setsid()  # a group of its own: it is ended with everything that the users' code has started
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sharing.stand_aside()
    sharing.prepare_child()
    share_process()
    arm_failpoints("child")
    channel = socket.socket(fileno=SOCKET)
    channel.set_inheritable(False)  # its end tells process 1 of ours: nobody else may hold it open
    stdout, stderr = open_outputs()
    sys.stdout, sys.stderr = SharedStream(STDOUT, stdout), SharedStream(STDERR, stderr)
    WorkerServer(channel).run()


if __name__ == "__main__":
    main()
