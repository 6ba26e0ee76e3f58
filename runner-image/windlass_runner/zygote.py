"""The zygote: imports user code once, single-threaded, and forks a child for each attempt.

Talks with process 1 over a socket (file descriptor 3) that keeps messages apart, in JSON:

- in: ``{"preload": module or null}``; ``{"warm": true}``; ``{"start": id, "module": module or null, "fresh": bool}``
  with four descriptors: a file with the attempt, and the write ends of the child's output, its errors and its result;
  ``{"ahead": number}``: fork so many children that wait for an attempt
- out: ``{"spare": process}`` of each of these, with a socket at which it waits and which its result comes from, and
  the read ends of its output and its errors; ``{"imported": module}``: who is forked from now on has it;
  ``{"ready": true}``; of one attempt, ``{"id": …}`` with ``"importing": module``, ``"pid": …``, or
  ``"exit": wait status``; ``{"threads": module}``: it has started threads, so this zygote forks no more

It never reads an attempt: what it has read, every later child would have in its memory, and an attempt has a token.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from windlass import execution, protocol
from windlass.errors import LoadError
from windlass_runner.child import BODY, Child, run_child
from windlass_runner.zygote_channel import LONGEST, SOCKET, SPARE

_THREADS: Final = (
    b"windlass: the module starts threads when it is imported, so each attempt runs in a fresh interpreter.\n"
)
_IDLE: Final = 2
"""Milliseconds without a message after which we prepare a little more: attempts that are there go first."""
_LOOK_AGAIN: Final = 20
"""Milliseconds between two looks for ended children, on a kernel that has no descriptors for processes."""


def main() -> None:
    """Serve attempts until process 1 closes the socket."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a child that cannot hear yet that it should stop goes on
    channel = socket.socket(fileno=SOCKET)
    channel.set_inheritable(False)  # its end tells process 1 of ours: nobody else may hold it open
    ZygoteServer(channel).run()


class ZygoteServer:
    """Serves one socket.

    Args:
        channel: To process 1.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._children: dict[int, tuple[int, str]] = {}
        """Process and attempt by the descriptor of the process, or, where there is none, by the negative process."""
        self._modules: set[str] = set()
        """Modules that attempts have let us import."""
        self._broken: set[str] = set()
        """Modules that did not import. Half of such a module may have run, so another try gets a fresh interpreter."""
        self._problem: protocol.Failure | None = None
        """Why the module that was to be preloaded does not import."""
        self._reused = False
        """We fork for many attempts."""
        self._preparations: list[Callable[[], object]] = []
        self._ahead = 0
        """Children to be forked ahead of need, once we are prepared."""

    def run(self) -> None:
        """Serve until the other end is closed."""
        while True:
            blind = any(descriptor < 0 for descriptor in self._children)
            ready = self._poll.poll(_IDLE if self._preparations else _LOOK_AGAIN if blind else None)
            if not ready and self._preparations:
                self._preparations.pop(0)()
                if not self._preparations:
                    self._settle()
            for descriptor, _ in ready:
                if descriptor != self._channel.fileno():
                    self._reap(descriptor)
                elif not self._serve():
                    return
            if not self._preparations:
                self._fork_ahead()
            if blind:
                for key in [key for key in self._children if key < 0]:
                    self._reap(key)

    def _serve(self) -> bool:
        body, descriptors, _, _ = socket.recv_fds(self._channel, LONGEST, 4)
        if not body:
            return False
        message = msgspec.json.decode(body)
        if "start" in message:
            self._start(message["start"], message["module"], list(descriptors), fresh=message["fresh"])
        elif "warm" in message:
            self._reused = True
            self._prepare()
        elif "ahead" in message:
            self._ahead += message["ahead"]
        else:
            self._preload(message["preload"])
        return True

    def _preload(self, module: str | None) -> None:
        if module:
            try:
                execution.preload(module)
            except LoadError as error:
                self._problem = error.failure
        if "WINDLASS_STANDBY" in os.environ:  # no run waits for it yet
            self._prepare()
        self._settle()
        self._say({"ready": True})

    def _prepare(self) -> None:
        from windlass_runner import sharing

        self._preparations = sharing.preparations()

    def _settle(self) -> None:
        _flush()  # or each child would inherit what the module printed, and print it again
        gc.collect()
        gc.freeze()  # a child's garbage collection must not copy the pages that it shares with us

    def _start(self, name: str, module: str | None, descriptors: list[int], *, fresh: bool) -> None:
        os.lseek(descriptors[0], 0, os.SEEK_SET)  # process 1 sees by this that the attempt was taken
        problem = self._problem
        fresh = fresh or module in self._broken
        if module is not None and module not in self._modules and not fresh:
            self._say({"id": name, "importing": module})
            problem = self._import(module, descriptors)
        threads = threading.active_count() > 1
        if threads:
            os.write(descriptors[2], _THREADS)
        pid = _spawn(descriptors, reused=self._reused) if fresh or threads else self._fork(descriptors, problem)
        for descriptor in descriptors:
            os.close(descriptor)
        self._watch(pid, name)
        self._say({"id": name, "pid": pid})
        if threads and module is not None:
            self._say({"threads": module})

    def _import(self, module: str, descriptors: list[int]) -> protocol.Failure | None:
        """Import a module of an attempt, whose output is the attempt's; return why it does not import."""
        with _output_to(descriptors[1], descriptors[2]):
            try:
                execution.preload(module)
            except LoadError as error:
                self._broken.add(module)
                return error.failure
        self._modules.add(module)
        self._settle()
        if self._reused and threading.active_count() == 1:
            self._say({"imported": module})
        return None

    def _fork(self, descriptors: list[int], problem: protocol.Failure | None) -> int:
        pid = os.fork()
        if pid == 0:
            self._let_go()
            body, stdout, stderr, result = descriptors
            run_child(Child(body, stdout, stderr, result, reused=self._reused), problem)
        return pid

    def _let_go(self) -> None:
        """Close, in a child, what is ours."""
        self._channel.close()
        for descriptor in self._children:
            if descriptor >= 0:
                os.close(descriptor)

    def _fork_ahead(self) -> None:
        while self._ahead and threading.active_count() == 1:
            self._ahead -= 1
            with contextlib.suppress(
                OSError
            ):  # no process or descriptor is left: an attempt that needs one will say so
                self._fork_spare()

    def _fork_spare(self) -> None:
        ours, theirs = socket.socketpair()
        outputs = [os.pipe(), os.pipe()]
        try:
            pid = os.fork()
            if pid == 0:
                self._let_go()
                ours.close()
                for read, _ in outputs:
                    os.close(read)
                run_child(Child(None, outputs[0][1], outputs[1][1], theirs.detach(), reused=True), self._problem)
            self._watch(pid, f"{SPARE}{pid}")
            self._say({"spare": pid}, [ours.fileno(), *(read for read, _ in outputs)])
        finally:
            for descriptor in (ours.detach(), theirs.detach(), *outputs[0], *outputs[1]):
                os.close(descriptor)

    def _watch(self, pid: int, name: str) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            descriptor = -pid
        else:
            self._poll.register(descriptor, select.POLLIN)
        self._children[descriptor] = (pid, name)

    def _reap(self, descriptor: int) -> None:
        pid, name = self._children[descriptor]
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # a module has seen to it that nobody has to wait; its result tells, if there is one
            ended, status = pid, 0
        if not ended:
            return
        del self._children[descriptor]
        if descriptor >= 0:
            self._poll.unregister(descriptor)
            os.close(descriptor)
        self._say({"id": name, "exit": status})

    def _say(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if descriptors:
            socket.send_fds(self._channel, [msgspec.json.encode(message)], descriptors)
        else:
            self._channel.sendall(msgspec.json.encode(message))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever the module has put there
            stream.flush()


@contextlib.contextmanager
def _output_to(stdout: int, stderr: int) -> Iterator[None]:
    """Let this process print to others' descriptors."""
    _flush()
    saved = [os.dup(1), os.dup(2)]
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    try:
        yield
    finally:
        _flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _spawn(descriptors: list[int], *, reused: bool) -> int:
    """Start a fresh interpreter: a fork would copy the locks of the module's threads and not the threads."""
    import fcntl

    command = [sys.executable, "-c", "from windlass_runner.child import main; main()", *(["reused"] if reused else [])]
    # Copies above the numbers that they get: the module may have files open, and one move must not overwrite the next.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20) for descriptor in descriptors]
    actions = [(os.POSIX_SPAWN_DUP2, copy, BODY + n) for n, copy in enumerate(copies)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    for descriptor in copies:
        os.close(descriptor)
    return pid


if __name__ == "__main__":
    main()
