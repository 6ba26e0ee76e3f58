"""Process 1 of a pod of a pool: takes one run after the other, several at once, until it is told to leave.

All decisions are made in one loop. Threads stand beside it, and each waits for the API in its own matter: heartbeats,
logs, reports, and the claim that is under way.
"""

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from windlass import protocol
from windlass_runner import exit_codes
from windlass_runner.claimer import Claimer, new_claim_id
from windlass_runner.endings import LAST_FLUSH, Ending, Told
from windlass_runner.main import say
from windlass_runner.reporter import Report, Reporter
from windlass_runner.shared import Shared
from windlass_runner.worker_process import Worker
from windlass_runner.zygote_process import Zygote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windlass_runner.batch_reporter import BatchReporter
    from windlass_runner.slot import Slot
    from windlass_runner.workers import Workers
    from windlass_runner.zygotes import Zygotes

_WITHDRAW: Final = 5.0
"""Seconds that a withdrawal may take, of the pod's termination grace."""
_LOOK: Final = 5.0
"""Seconds between two looks at what concerns no attempt."""
_HAND_BACK: Final = Ending("/release", protocol.ReleaseRequest(reason="PodTerminated"))


class ReusableRunner:
    """Serves a pod of a pool.

    Args:
        shared: What all attempts share.
        starter: What was started with the pod: the zygote, or the worker process of a pod that runs in-process.
        first: The answer to the first claim, which has a session.
        claimed_at: Monotonic time of that answer.
    """

    def __init__(
        self, shared: Shared, starter: Zygote | Worker, first: protocol.ClaimResponse, session: str, claimed_at: float
    ) -> None:
        config = shared.config
        shared.secrets.append(session)
        self._shared = shared
        self._config = config
        self._slots = max(1, first.slots)
        self._running: dict[str, Slot] = {}
        self._reporting = 0
        self._asked_with_reports = 0
        self._polling = 0
        """Slots that the claim under way asks for."""
        self._started = 0
        self._leaving = False
        self._withdrawing = False
        self._code = exit_codes.DONE
        lifetime = config.max_age * random.uniform(0.9, 1.0)  # noqa: S311 - so that pods of one age do not end together
        self._old_at = time.monotonic() + lifetime
        self._processes = self._made(starter)
        post = shared.loop.post
        self._claimer = Claimer(
            config,
            session,
            lambda answer, at: post(partial(self._answered, answer, at)),
            lambda why: post(partial(self._refused, why)),
        )
        self._reporter = self._made_reporter(session)
        self._leaving = first.leave
        for attempt in first.attempts:
            self._take(attempt, claimed_at)

    def _made(self, starter: Zygote | Worker) -> "Zygotes | Workers":
        if isinstance(starter, Zygote):
            from windlass_runner.zygotes import Zygotes

            return Zygotes(self._shared, starter, self._running, self._slots)
        from windlass_runner.workers import Workers

        return Workers(self._shared, starter, self._slots)

    def _made_reporter(self, session: str) -> "Reporter | BatchReporter":
        def reported(told_each: "Sequence[tuple[Report, Told]]") -> None:
            self._shared.loop.post(partial(self._reported, told_each, time.monotonic()))

        if self._config.in_process:  # many end in one moment
            from windlass_runner.batch_reporter import BatchReporter

            return BatchReporter(self._config, session, reported)
        return Reporter(self._config, session, self._slots, lambda report, told: reported([(report, told)]))

    def run(self) -> int:
        """Serve until the pod is to end, and return the runner's exit code."""
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            for slot in list(self._running.values()):
                slot.check_timers(now)
                if slot.is_over(now):
                    self._end(slot)
            if now - looked >= _LOOK:
                looked = now
                self._shared.kills.look()
            self._ask()
            if self._is_done():
                break
            self._shared.loop.turn(min(self._pause(now), self._processes.check(now) - now))
        self._shared.logs.flush(LAST_FLUSH if not self._shared.stopping else _WITHDRAW)
        return self._code

    def _pause(self, now: float) -> float:
        due = min((slot.next_timer() for slot in self._running.values()), default=now + _LOOK)
        return min(_LOOK, due - now)

    def _is_claiming(self) -> bool:
        """Whether more work may be asked for."""
        return not (
            self._leaving or self._shared.stopping or self._processes.broken or time.monotonic() >= self._old_at
        )

    def _may_ask(self) -> int:
        """Return for how many attempts more this pod may ask, its free slots apart."""
        asked = self._polling + self._asked_with_reports
        return self._config.max_runs - self._started - asked if self._config.max_runs else self._slots

    def _ask(self) -> None:
        """See to the claim that is under way, or to be."""
        if self._shared.stopping and self._polling and not self._withdrawing:
            self._withdrawing = True
            self._claimer.withdraw(lambda: self._shared.loop.post(self._withdrawn), _WITHDRAW)
        if self._polling or not (self._is_claiming() and self._processes.takes_more):
            return
        free = self._slots - len(self._running) - self._reporting
        self._polling = max(0, min(free, self._may_ask()))
        if self._polling:
            self._claimer.ask(self._polling)

    def _is_done(self) -> bool:
        if self._processes.broken and not self._code:
            say("the process that starts the code ends again and again.")
            self._code = exit_codes.ZYGOTE_BROKEN
        return not (self._running or self._reporting or self._polling or self._is_claiming_for_more())

    def _is_claiming_for_more(self) -> bool:
        return self._is_claiming() and self._may_ask() > 0

    def _answered(self, answer: protocol.ClaimResponse, at: float) -> None:
        self._polling = 0
        self._leaving = self._leaving or answer.leave
        for attempt in answer.attempts:
            self._take(attempt, at)

    def _refused(self, why: str) -> None:
        self._polling = 0
        self._leaving = True
        if not self._shared.stopping:
            say(f"the API refused this pod: {why}")
            self._code = exit_codes.API_UNREACHABLE

    def _withdrawn(self) -> None:
        self._polling = 0

    def _take(self, attempt: protocol.ClaimedAttempt, claimed_at: float) -> None:
        slot = self._processes.slot(attempt, claimed_at)
        if self._shared.stopping:  # it came too late: nobody has to notice
            self._report(slot, _HAND_BACK, None)
            return
        self._started += 1
        self._running[attempt.attempt_id] = slot
        first = min(attempt.lease_ms / 3, attempt.heartbeat_ms) / 1000
        self._shared.heartbeats.keep(attempt, slot.heard, slot.memory, first=first)
        slot.start()

    def _end(self, slot: "Slot") -> None:
        ending = slot.close()
        del self._running[slot.attempt.attempt_id]
        self._processes.release(slot)
        claim = None
        if ending.path in ("/complete", "/fail") and self._is_claiming_for_more() and self._processes.takes_more:
            claim = protocol.NextClaim(claim_id=new_claim_id(), slots=1)
        self._report(slot, ending, claim)

    def _report(self, slot: "Slot", ending: Ending, claim: protocol.NextClaim | None) -> None:
        self._reporting += 1
        self._asked_with_reports += claim is not None
        self._reporter.send(Report(slot.attempt, slot.log, ending, claim))

    def _reported(self, told_each: "Sequence[tuple[Report, Told]]", at: float) -> None:
        for report, told in told_each:
            self._reporting -= 1
            self._asked_with_reports -= 0 if report.claim is None else report.claim.slots
            self._shared.heartbeats.drop(report.attempt)
            if told.problem:
                say(f"the end of attempt {report.attempt.attempt_id} was not taken: {told.problem}")
        for _, told in told_each:
            if told.outcome is not None:
                self._leaving = self._leaving or told.outcome.leave
                for attempt in told.outcome.attempts:
                    self._take(attempt, at)
