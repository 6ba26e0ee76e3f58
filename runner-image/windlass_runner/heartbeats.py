"""Signs of life: a thread of its own, because nothing that the main loop does may make it late."""

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
        memory: Returns the memory of the user's code in bytes, or None.
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
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        every = self._attempt.heartbeat_ms / 1000
        pause = 0.0  # at once: the first lease is short
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stop.is_set():
                return
            # An API that is away is no reason to stop: the lease is extended when it comes back.
            pause = every if self._beat(every) else min(1.0, every)
            pause *= random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret

    def _beat(self, every: float) -> bool:
        beat = protocol.Beat(token=self._attempt.token, memory_bytes=self._memory())
        request = protocol.HeartbeatRequest(beats=[beat])
        # A connection to a node that vanished is silent, not broken. Two of them must fit in a lease, which is three
        # heartbeats long.
        timeout = max(1.0, every / 2)
        try:
            body = self._api.call("/heartbeat", request, patience=every, timeout=timeout, stop=self._stop.is_set)
            self._answered(msgspec.json.decode(body, type=protocol.HeartbeatResponse).answers[0])
        except (Refused, Unreachable, msgspec.DecodeError, IndexError):
            return False
        return True

    def beat_now(self) -> None:
        """Ask at once, or again after the call that is under way."""
        self._wake.set()

    def stop(self) -> None:
        """Stop; does not wait."""
        self._stop.set()
        self._wake.set()
