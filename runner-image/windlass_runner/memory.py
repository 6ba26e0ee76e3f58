"""What the kernel says of memory: how much the user's code uses, and whether it was ended for it."""

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_CGROUP: Final = "/sys/fs/cgroup"
_FULL: Final = 0.9
"""Part of the limit from which on the limit is taken for the cause: what the kernel could still reclaim is not free."""
_TAKEN_WITHIN: Final = 5.0
UNLIMITED: Final = 1 << 60
"""Version 1 of control groups has no word for "no limit", but a number of this size."""


class Container(NamedTuple):
    """Memory of this container's control group, as far as the kernel tells.

    Attributes:
        kills: How many of its processes the kernel ended for want of memory, so far.
        limit: In bytes; None without one.
        peak: The most that it ever used, in bytes.
    """

    kills: int = 0
    limit: int | None = None
    peak: int | None = None

    def reached_limit(self, used: int | None) -> bool:
        """Whether a lack of memory is that of this container and not of its node.

        Args:
            used: What the code used at the last heartbeat, in bytes: where the kernel keeps no peak.
        """
        if self.limit is None:
            return False
        most = max(self.peak or 0, used or 0)
        return most == 0 or most >= _FULL * self.limit


def container(root: str = _CGROUP) -> Container:
    """Read the control group that the container sees as its root; what cannot be read is unknown."""
    kills = _number(f"{root}/memory.events", b"oom_kill")
    if kills is not None:
        return Container(kills, _number(f"{root}/memory.max"), _number(f"{root}/memory.peak"))
    folder = f"{root}/memory"
    limit = _number(f"{folder}/memory.limit_in_bytes")
    return Container(
        _number(f"{folder}/memory.oom_control", b"oom_kill") or 0,
        None if limit is None or limit >= UNLIMITED else limit,
        _number(f"{folder}/memory.max_usage_in_bytes"),
    )


class Kills:
    """Which child the kernel ended for want of memory, where several share the container.

    The kernel only counts. A child that ended by SIGKILL takes one kill of those that nobody has taken; one that nobody
    takes within seconds was that of a process which a child had started, and of no later child.

    Args:
        read: Reads the control group.
    """

    def __init__(self, read: Callable[[], Container] = container) -> None:
        self._read = read
        self._now = read()
        self._free = 0
        self._noticed = 0.0

    def look(self) -> None:
        """Notice what was killed meanwhile. Called now and then, so that an old kill is not taken for a new one."""
        now, at = self._read(), time.monotonic()
        if at - self._noticed > _TAKEN_WITHIN:
            self._free = 0
        if now.kills > self._now.kills:
            self._free += now.kills - self._now.kills
            self._noticed = at
        self._now = now

    def take(self, *, killed: bool) -> tuple[Container, Container]:
        """Return the container's memory before and after the end of a process, which SIGKILL may have ended."""
        self.look()
        before = self._now
        if killed and self._free:
            self._free -= 1
            before = before._replace(kills=before.kills - 1)
        return before, self._now


def _number(path: str, key: bytes = b"") -> int | None:
    """Return a file's only number, or the one in the line of ``key``."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib would cost milliseconds of every start
            for line in file.read().splitlines():
                name, _, value = line.rpartition(b" ")
                if name == key:
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


class Sessions:
    """Resident bytes of all sessions of this pod, read once, when the first is asked for."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._found: dict[int, int] | None = None

    def of(self, leader: int) -> int | None:
        """Return the resident bytes of a child and of all that it started, or None when they are gone."""
        if self._found is None:
            self._found = _of_sessions(self._proc)
        return self._found.get(leader) or None


def _of_sessions(proc: str) -> dict[int, int]:
    """Return the resident bytes of each session's processes.

    By session and not by process group: shells and pools make groups of their own. Pages that processes share count
    once for each.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    found: dict[int, int] = {}
    for name in os.listdir(proc):  # noqa: PTH208 - as above
        if not name.isdecimal():
            continue
        try:
            with open(f"{proc}/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                fields = file.read().rpartition(b")")[2].split()
            session = int(fields[3])
            found[session] = found.get(session, 0) + int(fields[21]) * page
        except (OSError, IndexError, ValueError):
            continue
    return found
