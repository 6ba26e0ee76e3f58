"""The zygote: imports user code once, single-threaded, and forks a child for each attempt.

Talks with process 1 over a socket (file descriptor 3), one JSON message each way at a time:

- in: ``{"preload": module or null}``, then the attempt (a ClaimedAttempt) with three descriptors: the write ends of the
  child's output and of its result
- out: ``{"ready": true}``, ``{"pid": …}``, ``{"exit": wait status, "maxrss": KiB}``
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from typing import Any

import msgspec

from windlass import execution, protocol
from windlass.errors import LoadError
from windlass_runner.child import Child, run_child
from windlass_runner.zygote_channel import SOCKET


def main() -> None:
    """Serve attempts until process 1 closes the socket."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a child that cannot hear yet that it should stop goes on
    channel = socket.socket(fileno=SOCKET)
    channel.set_inheritable(False)  # its end tells process 1 of ours: nobody else may hold it open
    request = _receive(channel)
    problem: protocol.Failure | None = None
    if request is None:
        return
    module = msgspec.json.decode(request[0])["preload"]
    if module:
        try:
            execution.preload(module)
        except LoadError as error:
            problem = error.failure
    _flush()  # or each child would inherit what the module printed, and print it again
    gc.collect()
    gc.freeze()  # a child's garbage collection must not copy the pages that it shares with us
    _send(channel, {"ready": True})
    while (request := _receive(channel)) is not None:
        body, descriptors = request
        attempt = msgspec.json.decode(body, type=protocol.ClaimedAttempt)
        pid = _start(channel, attempt, body, descriptors, problem)
        for descriptor in descriptors:
            os.close(descriptor)
        _send(channel, {"pid": pid})
        _, status, usage = os.wait4(pid, 0)
        _send(channel, {"exit": status, "maxrss": usage.ru_maxrss})


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever the module has put there
            stream.flush()


def _start(
    channel: socket.socket,
    attempt: protocol.ClaimedAttempt,
    body: bytes,
    descriptors: list[int],
    problem: protocol.Failure | None,
) -> int:
    if threading.active_count() > 1:
        return _spawn(body, descriptors)
    pid = os.fork()
    if pid == 0:
        channel.close()
        gc.unfreeze()
        run_child(Child(attempt, *descriptors), problem)
    return pid


def _spawn(body: bytes, descriptors: list[int]) -> int:
    """Start a fresh interpreter: a fork would copy the locks of the module's threads and not the threads."""
    import fcntl

    note = "windlass: the module starts threads when it is imported, so each attempt runs in a fresh interpreter.\n"
    os.write(descriptors[1], note.encode())
    read, write = os.pipe()
    command = [sys.executable, "-c", "from windlass_runner.child import main; main()"]
    # Copies above the numbers that they get: the module may have files open, and one move must not overwrite the next.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20) for descriptor in (read, *descriptors)]
    actions = [(os.POSIX_SPAWN_DUP2, copy, 10 + n) for n, copy in enumerate(copies)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    for descriptor in (read, *copies):
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "wb") as pipe:
        pipe.write(body)
    return pid


def _receive(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    head, descriptors, _, _ = socket.recv_fds(channel, 4, 3)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    body = b""
    while len(body) < size:
        chunk = channel.recv(min(size - len(body), 1 << 20))
        if not chunk:
            return None
        body += chunk
    return body, list(descriptors)


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    body = msgspec.json.encode(message)
    channel.sendall(len(body).to_bytes(4, "big") + body)


if __name__ == "__main__":
    main()
