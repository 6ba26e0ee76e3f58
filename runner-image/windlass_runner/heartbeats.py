"""Signs of life: a thread of its own, because nothing that the main loop does may make it late."""

import random
import threading
import time
from collections.abc import Callable

import msgspec

from windlass import protocol
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.memory import Sessions


class _Kept:
    """One attempt whose lease is kept."""

    def __init__(
        self,
        attempt: protocol.ClaimedAttempt,
        answered: Callable[[protocol.BeatAnswer], None],
        memory: Callable[[Sessions], int | None],
        due: float,
    ) -> None:
        self.token = attempt.token
        self.every = attempt.heartbeat_ms / 1000
        self.answered = answered
        self.memory = memory
        self.due = due


class Heartbeats:
    """Keeps the leases of all attempts of a runner: one call for all, as soon as one of them needs it.

    Args:
        url: Of the API.
    """

    def __init__(self, url: str) -> None:
        self._api = ApiClient(url)
        self._kept: dict[str, _Kept] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._sleeps_until = 0.0
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def keep(
        self,
        attempt: protocol.ClaimedAttempt,
        answered: Callable[[protocol.BeatAnswer], None],
        memory: Callable[[Sessions], int | None],
        *,
        first: float = 0.0,
    ) -> None:
        """Keep one attempt's lease from now on.

        Args:
            attempt: The attempt.
            answered: Called in this thread with each answer.
            memory: Returns the memory of the user's code in bytes, or None.
            first: Seconds until the first of them. The first lease is short.
        """
        with self._changed:
            due = time.monotonic() + first
            self._kept[attempt.token] = _Kept(attempt, answered, memory, due)
            if due < self._sleeps_until:
                self._changed.notify()

    def drop(self, attempt: protocol.ClaimedAttempt) -> None:
        """Keep it no longer."""
        with self._changed:
            self._kept.pop(attempt.token, None)

    def beat_now(self) -> None:
        """Ask at once, or again after the call that is under way."""
        with self._changed:
            for kept in self._kept.values():
                kept.due = 0.0
            self._changed.notify()

    def stop(self) -> None:
        """Stop; does not wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                due = min((kept.due for kept in self._kept.values()), default=None)
                now = time.monotonic()
                if self._stopped:
                    return
                if due is None or due > now:
                    self._sleeps_until = float("inf") if due is None else due
                    self._changed.wait(None if due is None else due - now)
                    self._sleeps_until = 0.0
                    continue
                # Those that would be due soon go along.
                beating = [kept for kept in self._kept.values() if kept.due <= now + kept.every / 2]
                for kept in beating:
                    kept.due = float("inf")
            # An API that is away is no reason to stop: the lease is extended when it comes back.
            answered = self._beat(beating)
            now = time.monotonic()
            with self._changed:
                for kept in beating:
                    pause = kept.every if answered else min(1.0, kept.every)
                    pause *= random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
                    kept.due = min(kept.due, now + pause)

    def _beat(self, beating: list[_Kept]) -> bool:
        every = min(kept.every for kept in beating)
        sessions = Sessions()
        beats = [protocol.Beat(token=kept.token, memory_bytes=kept.memory(sessions)) for kept in beating]
        # A connection to a node that vanished is silent, not broken. Two of them must fit in a lease, which is three
        # heartbeats long.
        timeout = max(1.0, every / 2)
        try:
            body = self._api.call(
                "/heartbeat",
                protocol.HeartbeatRequest(beats=beats),
                patience=every,
                timeout=timeout,
                stop=lambda: self._stopped,
            )
            answers = msgspec.json.decode(body, type=protocol.HeartbeatResponse).answers
        except (Refused, Unreachable, msgspec.DecodeError):
            return False
        for kept, answer in zip(beating, answers, strict=False):
            kept.answered(answer)
        return len(answers) == len(beating)
