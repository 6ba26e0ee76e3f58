"""The time limits of one attempt, counted from its claim; code may add to two of them while it runs."""

from typing import Final

from windlass import protocol

LIMITS: Final = ("total", "run", "attempt")
_LAST_WORD: Final = 2.0
"""Seconds that a look for more running time may take before the code is ended. An API that is away extends nothing."""


class Limits:
    """Says which limit was reached, and when to look again.

    Args:
        attempt: What was claimed.
        claimed_at: Monotonic time of the claim.
    """

    def __init__(self, attempt: protocol.ClaimedAttempt, claimed_at: float) -> None:
        self._attempt = attempt
        self._claimed_at = claimed_at
        self._run_added_ms = attempt.added_ms
        self._attempt_added_ms = 0
        self._asked_until: float | None = None

    def heard(self, answer: protocol.BeatAnswer) -> None:
        """Take in what the code has added."""
        self._run_added_ms = max(self._run_added_ms, answer.run_added_ms)
        self._attempt_added_ms = max(self._attempt_added_ms, answer.attempt_added_ms)
        if self._asked_until is not None:
            self._asked_until = 0.0  # answered: a limit that is still reached is final

    def all(self) -> dict[str, int]:
        """Return the limits in milliseconds from the claim, the one that decides first, first."""
        attempt = self._attempt
        found = {}
        if attempt.deadline_ms is not None:
            found["total"] = attempt.deadline_ms
        if attempt.timeout_ms is not None:
            found["run"] = attempt.timeout_ms + self._run_added_ms - attempt.added_ms
        if attempt.attempt_timeout_ms is not None:
            found["attempt"] = attempt.attempt_timeout_ms + self._attempt_added_ms
        return found

    def check(self, now: float) -> tuple[str | None, bool]:
        """Return the limit that has been reached for good, and whether the API is to be asked for more time first."""
        ran = (now - self._claimed_at) * 1000
        why = next((why for why, limit in self.all().items() if ran >= limit), None)
        if why is None:
            self._asked_until = None
        elif why == "total" or (self._asked_until is not None and now >= self._asked_until):
            return why, False
        elif self._asked_until is None:
            self._asked_until = now + _LAST_WORD
            return None, True
        return None, False

    def next(self) -> list[float]:
        """Return the monotonic times at which :meth:`check` may say something else."""
        waits_for = self.all()
        ends = []
        if self._asked_until is not None:
            ends.append(self._asked_until)
            waits_for = {why: limit for why, limit in waits_for.items() if why == "total"}
        return ends + [self._claimed_at + limit / 1000 for limit in waits_for.values()]
