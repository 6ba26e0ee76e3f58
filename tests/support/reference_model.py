"""What a ledger must do, in the fewest words: plain dictionaries, no SQL, no locks, one thing after the other.

Each operation takes what the real services answered, and returns whether that answer is possible here. So several
operations that were under way at once can be tried in every order: one of them must explain all answers and the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

UNSUCCESSFUL = ("Failed", "TimedOut", "Cancelled")
FINAL = ("Succeeded", *UNSUCCESSFUL)
REFUSED = "refused"
LEASE, FIRST_LEASE, GAP = timedelta(seconds=30), timedelta(seconds=10), timedelta(seconds=6)
LONGEST_DELAY = timedelta(seconds=30)
USER_BUDGET, INFRA_BUDGET, UNDO_BUDGET = 3, 10, 10


@dataclass
class Step:
    state: str  # running, waiting, succeeded, failed
    durable: bool = False
    undoable: bool = False
    due: datetime | None = None
    event: str | None = None
    child: str | None = None

    @property
    def over(self) -> bool:
        return self.state == "succeeded" or (self.state == "failed" and self.durable)


@dataclass
class Attempt:
    run: str
    secret: int
    lease: datetime
    open: bool = True
    answer: str | None = None


@dataclass
class Run:
    created: datetime
    parent: str | None = None
    detached: bool = False
    state: str = "Queued"
    user: int = 0
    infra: int = 0
    undo_failures: int = 0
    attempts: int = 0
    undoing: bool = False
    ends_as: str | None = None
    steps: dict[str, Step] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    surely_from: datetime | None = None

    @property
    def claimable(self) -> bool:
        return self.state == "Queued" or (self.state == "Compensating" and not self.undoing)

    @property
    def left(self) -> list[str]:
        undone = [key for key, step in self.steps.items() if step.state == "succeeded"]
        return [key for key, step in self.steps.items() if step.undoable and f"compensate/{key}" not in undone]

    def history(self) -> frozenset[str]:
        return frozenset(key for key, step in self.steps.items() if step.over)

    def shown(self) -> dict[str, Any]:
        """What is compared with the ledger."""
        steps = {key: step.state for key, step in self.steps.items()}
        return {"state": self.state, "user": self.user, "infra": self.infra, "attempts": self.attempts, "steps": steps}


@dataclass
class Model:
    now: datetime
    served_at: datetime
    served_since: datetime
    runs: dict[str, Run] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, datetime]] = field(default_factory=list)

    # What clients do

    def trigger(self, key: str | None, *, seen: str) -> bool:
        holder = self.keys.get(key) if key else None
        if holder and self.runs[holder].state not in UNSUCCESSFUL:
            return seen == holder
        if seen in self.runs:
            return False
        self.runs[seen] = Run(self.now)
        if key:
            self.keys[key] = seen
        return True

    def cancel(self, run_id: str, *, seen: str) -> bool:
        run = self.runs[run_id]
        if run.state in ("Queued", "Waiting", "Suspended"):
            self._finish(run, "Cancelled")
        elif run.state == "Running":
            run.state = "Cancelling"
        return seen == run.state

    def resume(self, run_id: str, *, seen: str) -> bool:
        run = self.runs[run_id]
        if run.state != "Suspended":
            return seen == "not suspended"
        self._queue(run)
        return seen == "Queued"

    def send(self, name: str, *, seen: None) -> bool:
        self.events.append((name, self.now))
        for run in self.runs.values():
            waiting = [key for key, step in run.steps.items() if step.state == "waiting" and step.event == name]
            if waiting:
                run.taken.add(len(self.events))
                self._settle(run, waiting[0], succeeded=True)
        return True

    # What runners do

    def claim(self, *, seen: tuple[str, str, int, bool, frozenset[str]] | None) -> bool:
        if seen is None:
            return not any(r.claimable and (r.surely_from or self.now) <= self.now for r in self.runs.values())
        run_id, attempt_id, number, undoing, steps = seen
        run = self.runs[run_id]
        if not run.claimable or number != run.attempts + 1 or undoing != (run.state == "Compensating"):
            return False
        if steps != (frozenset() if undoing else run.history()):
            return False
        run.attempts, run.undoing = number, undoing
        run.state = run.state if undoing else "Running"
        self.attempts[attempt_id] = Attempt(run_id, 0, self.now + FIRST_LEASE)
        return True

    def claim_again(self, attempt_id: str, *, seen: int | None) -> bool:
        """The answer was lost: the same attempt, another secret. An attempt that is closed is answered to nobody."""
        attempt = self.attempts[attempt_id]
        if not attempt.open:
            return seen is None
        attempt.secret += 1
        attempt.lease = self.now + FIRST_LEASE
        return seen == attempt.secret

    def heartbeat(self, attempt_id: str, secret: int, *, seen: tuple[bool, bool]) -> bool:
        attempt = self._writer(attempt_id, secret)
        if attempt is None:
            return seen == (False, False)
        attempt.lease = self.now + LEASE
        return seen == (True, self.runs[attempt.run].state == "Cancelling")

    def save(self, attempt_id: str, secret: int, key: str, step: Step, *, seen: str) -> bool:
        attempt = self._writer(attempt_id, secret)
        if attempt is None:
            return seen == REFUSED
        steps = self.runs[attempt.run].steps
        if self._free(steps.get(key)):
            steps.pop(key, None)  # the order is that in which they finished
            steps[key] = Step(step.state, step.durable, step.undoable)
        return seen == "saved"

    def wait(self, attempt_id: str, secret: int, key: str, step: Step, *, seen: str) -> bool:
        attempt = self._writer(attempt_id, secret)
        if attempt is None:
            return seen == REFUSED
        run = self.runs[attempt.run]
        if self._free(run.steps.get(key)):
            run.steps.pop(key, None)
            run.steps[key] = Step("waiting", due=step.due, event=step.event)
            kept = [n for n, (name, at) in enumerate(self.events, 1) if name == step.event and at >= run.created]
            first = next((n for n in kept if n not in run.taken), None)
            if first is not None:
                run.taken.add(first)
                run.steps[key].state = "succeeded"
        return seen == ("over" if run.steps[key].over else "waits")

    def start_child(self, attempt_id: str, secret: int, key: str, detached: bool, *, seen: str) -> bool:
        attempt = self._writer(attempt_id, secret)
        if attempt is None:
            return seen == REFUSED
        run = self.runs[attempt.run]
        if key in run.steps:
            return seen == run.steps[key].child
        if run.state != "Running":
            return seen == "ending"
        if seen in self.runs:
            return False
        self.runs[seen] = Run(self.now, parent=attempt.run, detached=detached)
        run.steps[key] = Step("waiting", child=seen)
        return True

    def complete(self, attempt_id: str, secret: int, *, seen: str) -> bool:
        def decide(run: Run) -> None:
            if run.state != "Compensating":
                self._finish(run, "Succeeded")
            elif run.left:
                self._failed(run, "user")
            else:
                self._finish(run, run.ends_as or "")

        return self._ended(attempt_id, secret, decide, seen)

    def fail(self, attempt_id: str, secret: int, kind: str, *, seen: str) -> bool:
        return self._ended(attempt_id, secret, lambda run: self._failed(run, kind), seen)

    def release(self, attempt_id: str, secret: int, *, seen: str) -> bool:
        def decide(run: Run) -> None:
            if run.state == "Cancelling":
                self._finish(run, "Cancelled")
            else:
                self._queue(run)

        return self._ended(attempt_id, secret, decide, seen)

    def suspend(self, attempt_id: str, secret: int, keys: frozenset[str], *, seen: str) -> bool:
        attempt = self._writer(attempt_id, secret)
        if attempt is None:
            told = self.attempts[attempt_id].answer and self.attempts[attempt_id].secret == secret
            return seen == ("suspended" if told else REFUSED)
        run = self.runs[attempt.run]
        if any(key in run.steps and run.steps[key].over for key in keys):
            return seen == "goes on"
        if not any(step.state == "waiting" for step in run.steps.values()):
            return seen == "invalid"

        def decide(run: Run) -> None:
            if run.state == "Cancelling":
                self._finish(run, "Cancelled")
            else:
                run.state = "Waiting"

        self._close(attempt, decide)
        return seen == "suspended"

    # What the control plane does

    def lose(self, attempt_id: str, *, seen: bool) -> bool:
        attempt = self.attempts[attempt_id]
        if not attempt.open:
            return not seen
        self._close(attempt, lambda run: self._failed(run, "infra"))
        attempt.answer = None  # its runner was told nothing
        return seen

    def reap(self, *, seen: int) -> bool:
        served = self.served_at > self.now - GAP and self.served_since < self.now - LEASE
        late = [a for a, attempt in self.attempts.items() if served and attempt.open and attempt.lease < self.now]
        for attempt_id in late:
            self.lose(attempt_id, seen=True)
        return seen == len(late)

    def fire(self, *, seen: None) -> bool:
        for run in self.runs.values():
            for key, step in list(run.steps.items()):
                if step.state == "waiting" and step.due is not None and step.due <= self.now:
                    self._settle(run, key, succeeded=step.event is None)
        return True

    def follow(self) -> None:
        """What the end of a run means for those that wait for it, and for those that it has started."""
        for run in self.runs.values():
            for key, step in list(run.steps.items()):
                if step.state == "waiting" and step.child and self.runs[step.child].state in FINAL:
                    self._settle(run, key, succeeded=self.runs[step.child].state == "Succeeded")
        for run_id, run in self.runs.items():
            parent = self.runs[run.parent] if run.parent else None
            ending = parent and (parent.ends_as if parent.state == "Compensating" else parent.state)
            if not run.detached and ending in ("Cancelling", "Cancelled", "TimedOut"):
                self.cancel(run_id, seen=run.state)

    # The few rules behind all of it

    def _writer(self, attempt_id: str, secret: int) -> Attempt | None:
        attempt = self.attempts[attempt_id]
        return attempt if attempt.open and attempt.secret == secret else None

    def _free(self, step: Step | None) -> bool:
        return step is None or step.state == "running" or (step.state == "failed" and not step.durable)

    def _ended(self, attempt_id: str, secret: int, decide: Callable[[Run], None], seen: str) -> bool:
        attempt = self.attempts[attempt_id]
        if attempt.secret != secret:
            return seen == REFUSED
        if attempt.open:
            self._close(attempt, decide)
        return seen == (attempt.answer or REFUSED)

    def _close(self, attempt: Attempt, decide: Callable[[Run], None]) -> None:
        run = self.runs[attempt.run]
        decide(run)
        attempt.open, run.undoing, attempt.answer = False, False, run.state
        for key in [key for key, step in run.steps.items() if step.state == "running"]:
            del run.steps[key]

    def _failed(self, run: Run, kind: str) -> None:
        if run.state == "Compensating":
            run.undo_failures += 1
            if kind in ("permanent", "divergence") or run.undo_failures >= UNDO_BUDGET:
                self._finish(run, run.ends_as or "")
            else:
                run.surely_from = self.now + LONGEST_DELAY
        elif run.state == "Cancelling":
            self._finish(run, "Cancelled")
        elif kind == "divergence":
            run.state = "Suspended"
        elif kind == "infra":
            run.infra += 1
            self._queue_or_fail(run, exhausted=run.infra > INFRA_BUDGET)
            run.surely_from = self.now + (LONGEST_DELAY if run.infra > 1 else timedelta(0))
        else:
            run.user += 1
            self._queue_or_fail(run, exhausted=kind == "permanent" or run.user >= USER_BUDGET)

    def _queue_or_fail(self, run: Run, *, exhausted: bool) -> None:
        if exhausted:
            self._finish(run, "Failed")
        else:
            self._queue(run)

    def _queue(self, run: Run) -> None:
        run.state = "Compensating" if run.state == "Compensating" else "Queued"
        run.surely_from = self.now

    def _finish(self, run: Run, state: str) -> None:
        if state != "Succeeded" and run.ends_as is None and any(step.undoable for step in run.steps.values()):
            run.state, run.ends_as, run.surely_from = "Compensating", state, self.now
        else:
            run.state = state
        for key in [key for key, step in run.steps.items() if step.state == "waiting"]:
            del run.steps[key]

    def _settle(self, run: Run, key: str, *, succeeded: bool) -> None:
        run.steps[key].state, run.steps[key].durable = "succeeded" if succeeded else "failed", not succeeded
        if run.state == "Waiting":
            self._queue(run)

    def pod_gone(self, attempt_id: str, *, seen: bool) -> bool:
        return self.lose(attempt_id, seen=seen)
