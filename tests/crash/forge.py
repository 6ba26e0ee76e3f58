"""Forks real processes of API, operator and runner from a parent that has imported everything: 10 ms instead of 2 s.

Speaks JSON lines over file descriptor 3 with :mod:`tests.crash.processes`:

- in: ``{"id": 1, "role": "api", "env": {...}, "log": "/path"}``
- out: ``{"ready": true}``; ``{"id": 1, "pid": 2}``, then ``{"pid": 2, "exit": 0}``, with the number of a signal below 0

The end of a runner's process 1 is the end of its container: what it leaves behind is adopted here and killed.
"""

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import boto3  # noqa: F401 - warm
import uvloop  # noqa: F401 - warm

import windlass_operator.otlp
import windlass_operator.processes  # noqa: F401 - warm
from tests.crash import effects, hurry  # noqa: F401 - warm
from windlass import children, compensating, events, execution, progress, waits  # noqa: F401 - warm
from windlass_operator import cli, failpoints  # noqa: F401 - warm
from windlass_runner import main as runner
from windlass_runner import shared, supervisor, zygote  # noqa: F401 - warm
from windlass_runner.config import user_environment
from windlass_runner.zygote_channel import SOCKET
from windlass_runner.zygote_process import Zygote

_CONTROL: Final = 3
_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)


class ForkedZygote(Zygote):
    """A zygote that is forked, where the real one is a fresh interpreter: the same protocol, 100 ms earlier."""

    def _spawn(self, theirs: socket.socket, outputs: list[int], env: Mapping[str, str]) -> int:
        pid = os.fork()
        if pid == 0:
            self.socket.close()
            os.environ.clear()
            os.environ.update(env)
            for n, write in enumerate(outputs):
                os.dup2(write, 1 + n)
            os.dup2(theirs.fileno(), SOCKET)
            os.closerange(SOCKET + 1, 256)
            _finish(zygote.main)
        return pid


def _finish(work: Any) -> NoReturn:
    """Do the work and leave the process, whatever happens: nothing of the forge may run twice."""
    code = 70
    try:
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        if not isinstance(ended.code, int):
            os.write(2, f"{ended.code}\n".encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _become(role: str, env: Mapping[str, str], log: str) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)
    if role == "runner":
        _finish(lambda: runner.main(ForkedZygote(user_environment(os.environ))))
    hurry.hurry()
    _finish(lambda: cli.main([role]))


class _Forge:
    def __init__(self) -> None:
        self._control = socket.socket(fileno=_CONTROL)
        self._ours: set[int] = set()
        self._rest = b""

    def run(self) -> None:
        """Serve until the harness closes the socket."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(read, selectors.EVENT_READ)
        selector.register(self._control, selectors.EVENT_READ)
        self._say({"ready": True})
        while True:
            for key, _ in selector.select():
                if key.fd == read:
                    os.read(read, 1024)
                    self._reap()
                elif not self._serve():
                    self._kill_orphans(everybody=True)
                    return

    def _serve(self) -> bool:
        chunk = self._control.recv(1 << 20)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _finish(partial(_become, asked["role"], asked["env"], asked["log"]))
            self._ours.add(pid)
            self._say({"id": asked["id"], "pid": pid})
        return bool(chunk)

    def _reap(self) -> None:
        ended = False
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid in self._ours:
                    ended = True
                    self._ours.discard(pid)
                    self._say({"pid": pid, "exit": os.waitstatus_to_exitcode(status)})
        if ended:
            self._kill_orphans()

    def _kill_orphans(self, *, everybody: bool = False) -> None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (everybody or int(entry.name) not in self._ours):
                with contextlib.suppress(OSError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                        os.kill(int(entry.name), signal.SIGKILL)

    def _say(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    """Serve the harness."""
    if ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit("prctl(PR_SET_CHILD_SUBREAPER) failed")
    gc.collect()
    gc.freeze()
    _Forge().run()


if __name__ == "__main__":
    main()
