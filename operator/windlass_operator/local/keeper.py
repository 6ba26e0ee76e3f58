"""Starts one program and sees to it that nothing of it is left behind, whatever becomes of who asked for it.

Run as a script, see ``keeping``, with nothing imported but the standard library: it starts as fast as Python does.

    keeper.py LIFELINE STOP_SIGNAL GRACE USER PROGRAM ARGUMENT...

``LIFELINE`` is the read end of a pipe whose other end only the asking process has: when that process is gone, however
it went, the program is told to stop by ``STOP_SIGNAL`` and, after ``GRACE`` seconds, killed with all that it has
started. SIGTERM to the keeper means the same, and what asks a second time kills at once. ``USER`` is the id of the
user and group that the program gets, or 0 for no change. The keeper exits as the program did; 128 and the signal's
number for a signal.
"""

import contextlib
import os
import select
import signal
import sys
import time

_BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)


def main(lifeline: int, stop_signal: int, grace: float, user: int, command: list[str]) -> int:
    """Keep one program; return the exit code."""
    _adopt_orphans()
    os.set_inheritable(lifeline, False)
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: who asked for us decides what it means
    signal.signal(signal.SIGCHLD, lambda *_: None)
    program = _start(user, command)
    kill_at: float | None = None
    watched = [lifeline, wake_read]
    while True:
        code = _reap(program)
        if code is not None:
            _kill_all()
            return code
        pause = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(watched, [], [], pause)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if lifeline in ready:
            watched.remove(lifeline)
            asked.append(0)
        if asked and kill_at is None:
            kill_at = time.monotonic() + grace
            _signal(program, stop_signal)
        if kill_at is not None and (len(asked) > 1 or time.monotonic() >= kill_at):
            _kill_all()
            kill_at = time.monotonic() + 1


def _adopt_orphans() -> None:
    """Become the parent of what our descendants leave behind: only so can it be found. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)


def _start(user: int, command: list[str]) -> int:
    pid = os.fork()  # and not posix_spawn, which changes no user
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if user:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        os.execv(command[0], command)  # noqa: S606 - no shell is what we want
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _reap(program: int) -> int | None:
    """Take note of children that have ended. Returns the program's exit code if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
                found = code if code >= 0 else 128 - code
    return found


def _kill_all() -> None:
    """Kill everything that came from us, until nothing of it is left."""
    for _ in range(100):
        found = _descendants()
        if not found:
            return
        for pid in found:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.01)  # what was being forked while we looked is found by the next look


def _descendants() -> list[int]:
    """Return the processes below us that still run."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    look_at = [os.getpid()]
    while look_at:
        below = children.get(look_at.pop(), [])
        found += below
        look_at += below
    return found


def _processes() -> list[tuple[int, int]]:
    """Return all processes that run as (id, parent's id)."""
    if sys.platform != "linux":
        import subprocess

        listed = subprocess.run(["/bin/ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=False)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [(int(row[0]), int(row[1])) for row in rows if len(row) > 2 and not row[2].startswith("Z")]
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - no pathlib: it costs start-up time
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    found.append((int(name), int(fields[1])))
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


if __name__ == "__main__":
    numbers = sys.argv[1:5]
    sys.exit(main(int(numbers[0]), int(numbers[1]), float(numbers[2]), int(numbers[3]), sys.argv[5:]))
