"""Signs of life: a thread of its own, because nothing that the main loop does may make it late."""

import contextlib
import os
import random
import threading
from collections.abc import Callable

import msgspec

from windlass import protocol
from windlass_runner.api import ApiClient, Refused, Unreachable


class Heartbeats:
    """Keeps one attempt's lease until stopped.

    Args:
        url: Of the API.
        attempt: The attempt.
        answered: Called in this thread with each answer.
        memory: Returns the child's memory in bytes, or None.
    """

    def __init__(
        self,
        url: str,
        attempt: protocol.ClaimedAttempt,
        answered: Callable[[protocol.BeatAnswer], None],
        memory: Callable[[], int | None],
    ) -> None:
        self._api = ApiClient(url)
        self._attempt = attempt
        self._answered = answered
        self._memory = memory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = 0.0  # at once: the first lease is short
        every = self._attempt.heartbeat_ms / 1000
        while not self._stop.wait(pause):
            pause = every * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
            beat = protocol.Beat(token=self._attempt.token, memory_bytes=self._memory())
            # An API that is away is no reason to stop: the lease is extended when it comes back.
            with contextlib.suppress(Refused, Unreachable, msgspec.DecodeError):
                body = self._api.call(
                    "/heartbeat",
                    protocol.HeartbeatRequest(beats=[beat]),
                    patience=every,
                    timeout=10,
                    stop=self._stop.is_set,
                )
                self._answered(msgspec.json.decode(body, type=protocol.HeartbeatResponse).answers[0])

    def stop(self) -> None:
        """Stop; does not wait."""
        self._stop.set()


def memory_of_group(pid: int) -> int | None:
    """Return the resident memory of a process in bytes, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123 - a path of /proc
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def oom_kills() -> int:
    """Return how often the kernel ended a process of this container for its memory; 0 where that cannot be read."""
    for path, key in (
        ("/sys/fs/cgroup/memory.events", b"oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", b"oom_kill"),
    ):
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - a path of /sys
                for line in file.read().splitlines():
                    name, _, count = line.partition(b" ")
                    if name == key:
                        return int(count)
        except (OSError, ValueError):
            continue
    return 0
