"""What happened to runs, for people who watch: counted, logged, and exported as spans. Called after the commit.

One instance a process, shared by the services. Nothing here can fail a run: it is told of what is true already.
"""

import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from windlass.protocol import Failure
from windlass.traces import TraceContext, parse
from windlass_operator import metrics
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.metrics import OTHER, task_labels
from windlass_operator.resources.reasons import Reason
from windlass_operator.services.spans import Span, attempt_place, attempt_spans, run_span

log = structlog.get_logger()

_REASONS: Final = frozenset(Reason) | {
    "DeletionByPodGC",
    "DeletionByTaintManager",
    "Evicted",
    "EvictionByEvictionAPI",
    "PreemptionByScheduler",
    "TerminationByKubelet",
}
"""Ours, and Kubernetes' words for taking a pod away."""


def reason_label(reason: str | None) -> str:
    """Return a reason as a label: its own word where that is one of a known few, else the one of all others."""
    return str(reason) if reason in _REASONS else OTHER


@dataclass(slots=True)
class Ended:
    """An attempt that has just ended, and what that led to."""

    run: LockedRun
    attempt: LockedAttempt
    change: Change
    state: RunState
    """Of the run, afterwards."""
    outcome: str
    failure: Failure | None
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Those that it wrote last. Read only where spans are wanted, and so is the pod's name."""
    pod_name: str | None = None


class Recorder:
    """Keeps numbers, log and traces in step with the ledger.

    Args:
        send: Takes finished spans, which may be made as they are taken; None where tracing is off.
        ratio: Share of the runs without a caller's trace that get one of their own.
    """

    def __init__(self, send: Callable[[Iterable[Span]], None] | None = None, *, ratio: float = 1.0) -> None:
        self._send = send
        self._ratio = ratio
        self._listeners: list[Callable[[UUID, RunState], None]] = []

    def listen(self, listener: Callable[[UUID, RunState], None]) -> None:
        """Call ``listener`` with each run of which it is told that it has ended, or is to end, and its state."""
        self._listeners.append(listener)

    def wants_spans(self, traceparent: str | None) -> bool:
        """Whether spans are wanted of a run, so that what they are made of must be read."""
        place = parse(traceparent) if self._send is not None else None
        return place is not None and place.sampled

    def start_trace(self, asked: str | None) -> tuple[str | None, TraceContext | None]:
        """Decide which trace a new run belongs to, before it is accepted.

        Args:
            asked: The ``traceparent`` of whoever asks for the run; one that is none is ignored, as W3C wants it.

        Returns:
            What the run keeps as its ``traceparent``, and the place of the submission's own span, if there is one.
        """
        caller = parse(asked)
        if self._send is None:
            return (str(caller) if caller else None), None
        if caller is None:
            sampled = random.random() < self._ratio  # noqa: S311 - a sample, not a secret
            place = TraceContext(secrets.token_hex(16), secrets.token_hex(8), sampled)
        else:
            place = caller.under(secrets.token_hex(8))
        return str(place), place

    def accepted(
        self,
        run_id: UUID,
        namespace: str,
        task: str,
        *,
        source: str,
        began: datetime,
        asked: str | None,
        place: TraceContext | None,
    ) -> None:
        """A run was accepted, from ``rest``, from a ``resource`` or by the code of another ``run``."""
        self.counted(namespace, task, 1, source=source)
        log.debug("run accepted", **_words(run_id, namespace, task), by=source)
        self.submitted(run_id, namespace, task, source=source, began=began, asked=asked, place=place)

    @staticmethod
    def counted(namespace: str, task: str, number: int, *, source: str) -> None:
        """So many runs of a task were accepted."""
        metrics.RUNS_ACCEPTED.labels(*task_labels(namespace, task), source).inc(number)

    def submitted(
        self,
        run_id: UUID,
        namespace: str,
        task: str,
        *,
        source: str,
        began: datetime,
        asked: str | None,
        place: TraceContext | None,
    ) -> None:
        """The submission of a run is over: its span, if it has one."""
        if self._send is None or place is None:
            return
        caller = parse(asked)
        span = Span(
            name=f"submit {task}",
            place=place,
            parent=caller.span_id if caller else None,
            start=began,
            end=datetime.now(UTC),
            attributes={"windlass.namespace": namespace, "windlass.task": task, "windlass.run_id": str(run_id)},
            kind="server" if source == "rest" else "internal",
        )
        self._send([span])

    def claimed(self, row: Mapping[str, Any]) -> None:
        """An attempt was opened."""
        labels = task_labels(row["namespace"], row["task"])
        waited = (row["started_at"] - row["available_at"]).total_seconds()
        metrics.QUEUE_WAIT.labels(*labels).observe(max(0.0, waited))
        log.debug("attempt claimed", **_words(row["run_id"], row["namespace"], row["task"]), attempt=str(row["id"]))

    def place_of(self, traceparent: str | None, attempt_id: UUID) -> str | None:
        """Return the ``traceparent`` under which an attempt's code works: its attempt's, or the caller's own."""
        place = attempt_place(traceparent, attempt_id) if self._send is not None else parse(traceparent)
        return None if place is None else str(place)

    def attempt_ended(self, end: Ended) -> None:
        """An attempt ended, and with it perhaps its run."""
        run, attempt, state, outcome, failure = end.run, end.attempt, end.state, end.outcome, end.failure
        failure_class = failure.failure_class if failure else None
        cause = (failure.reason or failure.type) if failure else None
        labels = task_labels(run.namespace, run.task)
        metrics.ATTEMPTS_ENDED.labels(*labels, outcome).inc()
        if end.change.event is RunEvent.RETRY:
            metrics.RETRIES.labels(*labels, failure_class or "none").inc()
        if outcome == "Lost":
            metrics.ATTEMPTS_LOST.labels(reason_label(cause)).inc()
        say = log.debug if outcome == "Succeeded" else log.warning if outcome == "Lost" else log.info
        say(
            "attempt ended",
            **_words(run.id, run.namespace, run.task),
            attempt=str(attempt.id),
            number=attempt.number,
            outcome=outcome,
            reason=cause,
            state=state.value,
        )
        if self._send is not None:
            self._send(attempt_spans(run, attempt, end.steps, outcome=outcome, reason=cause, pod_name=end.pod_name))
        if state.final:
            # What was undone meanwhile has not changed who answers for the end.
            answers = failure_class if run.ending is None else run.ending.failure_class
            self.run_ended(run, state, reason=end.change.reason, failure_class=answers)

    def run_ended(self, run: LockedRun, state: RunState, *, reason: str | None, failure_class: str | None) -> None:
        """A run reached its final state."""
        failed = failure_class if state in (RunState.FAILED, RunState.TIMED_OUT) else None
        labels = task_labels(run.namespace, run.task)
        metrics.RUNS_FINISHED.labels(*labels, state.value, failed or "none").inc()
        if run.started_at is not None:
            metrics.RUN_DURATION.labels(*labels).observe(max(0.0, _seconds(run.now - run.started_at)))
        say = log.debug if state is RunState.SUCCEEDED else log.info
        say("run ended", **_words(run.id, run.namespace, run.task), state=state.value, reason=reason)
        if self._send is not None:
            span = run_span(run, state=state.value, reason=reason, failure_class=failed)
            if span is not None:
                self._send([span])
        self.ending(run.id, state)

    def ending(self, run_id: UUID, state: RunState) -> None:
        """A run has ended, or was cancelled and has a while to clean up."""
        for listener in self._listeners:
            listener(run_id, state)

    @staticmethod
    def refused(operation: str) -> None:
        """A write of a closed attempt was refused."""
        metrics.FENCED_REFUSALS.labels(operation).inc()


def _words(run_id: UUID, namespace: str, task: str) -> dict[str, str]:
    return {"run": str(run_id), "namespace": namespace, "task": task}


def _seconds(duration: timedelta) -> float:
    return duration.total_seconds()
