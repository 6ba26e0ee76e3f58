"""The node from below: its processes stopped, killed and repaired, and those of a pod, by their control groups.

Only for a cluster of our own. Processes of the node are known by the cluster's pid files, never by name.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from e2e.cluster.processes import Processes
from e2e.cluster.settings import Settings
from e2e.support import SYSTEM, kubectl, run

OURS: Final = pytest.mark.skipif(os.environ.get("WINDLASS_CLUSTER") == "existing", reason="the node is somebody else's")
"""Marks what needs a node that may be broken."""


def kill(*names: str) -> None:
    """Kill processes of the node, all at once, and return when they are gone."""
    processes = _processes()
    doomed = [processes.alive()[name] for name in names]
    for process in doomed:
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while any(process.alive() for process in doomed):
        assert time.monotonic() < until, f"{names} do not end"
        time.sleep(0.01)


@contextmanager
def killed(*names: str) -> Iterator[None]:
    """Kill processes of the node, and start them again at the end of the block as ``make cluster-up`` does."""
    kill(*names)
    try:
        yield
    finally:
        repair()


def repair() -> None:
    """Start what has died."""
    run(sys.executable, "-m", "e2e.cluster", "up")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still: connections are taken and nothing answers."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def pid_of(name: str) -> int:
    """Return the pid of a process of the node."""
    return _processes().alive()[name].pid


def pids_of_pod(uid: str) -> list[int]:
    """Return the processes of a pod's containers, oldest first: the pause process, process 1 of the first one, ..."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        found = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cgroup") if uid in _text(p)]
        if found:
            return sorted(found, key=_started)
    raise AssertionError(f"no process belongs to pod {uid}")


def first_processes(namespace: str, *selector: str) -> list[int]:
    """Return process 1 of each running container of these pods, as the node counts it.

    Args:
        namespace: Of the pods.
        selector: Arguments of ``kubectl get pods`` that select them: names, or ``-l`` and a label.
    """
    paths = "{range .items[*]}{.metadata.uid}{'\\n'}{end}" if "-l" in selector else "{.metadata.uid}"
    uids = kubectl("get", "pods", "-n", namespace, *selector, "-o", f"jsonpath={paths}").split()
    found = []
    for uid in uids:
        # Process 1 of a container is the one whose parent is outside of it; the pause process holds no code of anyone.
        inside = pids_of_pod(uid)
        found += [pid for pid in inside if _parent(pid) not in inside and _text_of(pid, "comm") != "pause"]
    return found


def of_component(component: str) -> list[int]:
    """Return process 1 of each pod of a component of the release: ``api``, ``operator`` or ``postgres``."""
    found = first_processes(SYSTEM, "-l", f"app.kubernetes.io/component={component}")
    assert found, f"nothing of {component} runs"
    return found


def _processes() -> Processes:
    settings = Settings.from_environment()
    return Processes(settings.run, settings.logs)


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _started(pid: int) -> tuple[int, int]:
    return int(_stat(pid)[19]), pid


def _stat(pid: int) -> list[str]:
    return _text_of(pid, "stat").rpartition(")")[2].split() or ["Z", "0", *["0"] * 18]


def _text_of(pid: int, name: str) -> str:
    return _text(Path(f"/proc/{pid}/{name}")).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""
