"""What the two kinds of reusable pods have in common: processes below process 1, and what these print."""

import contextlib
import os
import signal
import sys
from collections.abc import Container
from functools import partial
from typing import Any, Final

from windlass_runner.logs import Lines, Redactor
from windlass_runner.shared import Shared
from windlass_runner.spawned import Spawned

SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)


def adopt_orphans() -> None:
    """Be the parent of what has lost its own."""
    import ctypes

    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def kill_strangers(known: Container[int]) -> None:
    """End what a process has left behind in sessions of its own: when it had ended, it became ours.

    Args:
        known: Our own processes. Nothing is ended where the kernel does not tell which children we have.
    """
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123 - as in memory
            children = [*map(int, file.read().split())]
    except OSError:
        return
    for pid in children:
        if pid not in known:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def show_output(shared: Shared, process: Spawned) -> None:
    """Show what belongs to no attempt: in the container's own log, and nowhere else."""
    for read, output in zip(process.outputs, (sys.stdout, sys.stderr), strict=True):
        os.set_blocking(read, False)
        shared.loop.watch(read, partial(_echo, shared, Lines(), output))


def _echo(shared: Shared, lines: Lines, output: Any, descriptor: int) -> None:
    chunk = os.read(descriptor, 1 << 16)
    redact = Redactor(shared.secrets)
    for line in lines.feed(chunk) if chunk else lines.end():
        with contextlib.suppress(OSError):
            print(redact(line), file=output, flush=True)
    if not chunk:
        shared.loop.forget(descriptor)
