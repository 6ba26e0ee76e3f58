"""What a process costs, read from ``/proc``."""

import contextlib
import logging
import os
from pathlib import Path

import structlog


def quiet() -> None:
    """Log what went wrong and nothing else."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that a process has used: what a loaded machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fine_cpu_seconds(pid: int) -> float:
    """Return the same to a nanosecond instead of 10 ms, of the threads that live: for what does almost nothing."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def fine_children_cpu(pid: int) -> float:
    """Return the same of all children that live: of a PostgreSQL server, its sessions and writers."""
    total = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += fine_cpu_seconds(int(child))
    return total


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the proportional share of memory now, and the largest resident set so far, in MB."""
    now = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    return now / 1000, _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:") / 1000


def _kilobytes(file: Path, name: str) -> float:
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1.024
    raise RuntimeError(f"{file} has no {name}")
