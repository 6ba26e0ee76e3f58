"""Start, recognise and end the cluster's processes.

A process is known by its pid file, which also holds when it started: pids are
reused, and nothing that somebody else started may ever get our signal.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .command import tail
from .errors import ClusterError
from .settings import NODE_IP, POD_CIDR, SERVICE_CIDR

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TERM_GRACE_S = 5.0
"""How long a process may take to end by itself. etcd flushes in well under a second."""


@dataclass(frozen=True)
class Spec:
    """One process as it should run. Two specs that differ mean a restart."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    """A hash of the configuration files that the process reads once, at its start."""


@dataclass(frozen=True)
class Running:
    """A pid file's content."""

    name: str
    pid: int
    start_ticks: int
    boot: str
    argv: tuple[str, ...]
    fingerprint: str

    def alive(self) -> bool:
        """Tell whether this very process still runs: same boot, same start, not a zombie."""
        return self.boot == boot_id() and _start_ticks(self.pid) == self.start_ticks


def boot_id() -> str:
    """Return what changes when the machine restarts."""
    return _BOOT_ID.read_text().strip()


def _start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


def _without_proxy() -> dict[str, str]:
    """Keep the components' talk among themselves away from a proxy that the environment may name."""
    direct = f"{os.environ.get('NO_PROXY', '')},localhost,127.0.0.1,{NODE_IP},{POD_CIDR},{SERVICE_CIDR}".strip(",")
    return {"NO_PROXY": direct, "no_proxy": direct}


class Processes:
    """The processes of one state folder."""

    def __init__(self, run: Path, logs: Path) -> None:
        self._run = run
        self._logs = logs

    def recorded(self) -> dict[str, Running]:
        """Return every process that a pid file names, alive or not."""
        found = {}
        for file in self._run.glob("*.pid"):
            try:
                content = json.loads(file.read_text())
                content["argv"] = tuple(content["argv"])
                found[file.stem] = Running(**content)
            except (OSError, ValueError, TypeError, KeyError):
                continue  # a crash while writing it: the process cannot be told apart, so it is not ours to end
        return found

    def alive(self) -> dict[str, Running]:
        """Return the processes that run now."""
        return {name: process for name, process in self.recorded().items() if process.alive()}

    def is_current(self, spec: Spec) -> bool:
        """Tell whether the process runs, and as the spec says."""
        process = self.alive().get(spec.name)
        return process is not None and process.argv == spec.argv and process.fingerprint == spec.fingerprint

    def ensure(self, spec: Spec) -> bool:
        """Start the process unless it runs as it should; return whether it was started."""
        if self.is_current(spec):
            return False
        self.stop([spec.name])
        self._start(spec)
        return True

    def _start(self, spec: Spec) -> None:
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{spec.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))  # why the last one ended is read there
        with log.open("ab") as output:
            # A new session: Ctrl-C in the terminal that started the cluster must not end it.
            child = subprocess.Popen(
                spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**os.environ, **_without_proxy(), **spec.environment},
                start_new_session=True,
            )
        ticks = _start_ticks(child.pid)
        # Detached on purpose: it outlives us. Without this Popen's finaliser warns about a running child.
        child.returncode = 0
        record = Running(spec.name, child.pid, ticks or 0, boot_id(), spec.argv, spec.fingerprint)
        file = self._run / f"{spec.name}.pid"
        scratch = file.with_suffix(".tmp")
        scratch.write_text(json.dumps(record.__dict__))
        scratch.replace(file)

    def stop(self, names: Iterable[str]) -> None:
        """End these processes, gently first, and forget them."""
        wanted = list(names)
        doomed = [process for name, process in self.recorded().items() if name in wanted]
        _end(doomed)
        for name in wanted:
            (self._run / f"{name}.pid").unlink(missing_ok=True)

    def log_tail(self, name: str) -> str:
        """Return the last lines of a process's log."""
        try:
            return tail((self._logs / f"{name}.log").read_text(errors="replace"))
        except OSError:
            return "    (no log)"

    def wait(
        self, what: str, ready: Callable[[], bool], *, needs: Iterable[str], timeout_s: float, todo: str = ""
    ) -> None:
        """Wait until `ready` says yes.

        Raises:
            ClusterError: One of the processes that it needs died, or the time is over.
        """
        needed = list(needs)
        deadline = time.monotonic() + timeout_s
        while not ready():
            alive = self.alive()
            dead = next((name for name in needed if name not in alive), None)
            late = time.monotonic() > deadline
            if dead or late:
                blamed = dead or needed[-1]
                why = f"{dead} ended while starting" if dead else f"{what} did not come within {timeout_s:.0f} s"
                raise ClusterError(
                    f"{why}; the last lines of {blamed}:\n{self.log_tail(blamed)}",
                    where=str(self._logs / f"{blamed}.log"),
                    todo=todo or "run `python3 -m e2e.cluster up` again; if it stays so, `down` and `up` start afresh",
                )
            time.sleep(0.05)


def _end(processes: Iterable[Running]) -> None:
    """Send SIGTERM, wait, send SIGKILL; each signal only to a process that is still the recorded one."""
    doomed = list(processes)
    for sent, patience_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, TERM_GRACE_S)):
        for process in doomed:
            if process.alive():
                os.kill(process.pid, sent)
        deadline = time.monotonic() + patience_s
        while any(process.alive() for process in doomed) and time.monotonic() < deadline:
            time.sleep(0.02)
    stuck = [f"{p.name} (pid {p.pid})" for p in doomed if p.alive()]
    if stuck:
        raise ClusterError(
            f"these do not end, even by SIGKILL: {', '.join(stuck)}",
            todo="they hang in the kernel, most often on a dead mount; restart the machine",
        )
