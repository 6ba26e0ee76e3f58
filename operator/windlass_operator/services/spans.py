"""The spans of a run, made from the ledger's times. Pure: nothing here sends anything.

One trace for each run: the submission, the run from its acceptance to its end, its attempts, their steps. Every id but
the submission's is derived from an id of the ledger, so a span can be named as a parent before it is made, in any
process. A span carries names, numbers and reasons; never a payload, a result or the text of an error.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from windlass.traces import TraceContext, parse, step_span_id
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.runs import LockedRun
from windlass_operator.ledger.steps import decode_error

Kind = Literal["internal", "server"]


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span."""

    name: str
    place: TraceContext
    parent: str | None
    """Span id of the parent; None for the root of a trace."""
    start: datetime
    end: datetime
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    error: str | None = None
    """Reason or type of a failure; None where there was none."""
    kind: Kind = "internal"


def span_id(row_id: UUID | str) -> str:
    """Return the span id of a run or an attempt: the random half of its UUID."""
    return UUID(str(row_id)).hex[16:]


def attempt_place(traceparent: str | None, attempt_id: UUID | str) -> TraceContext | None:
    """Return the place under which an attempt's user code works."""
    asked = parse(traceparent)
    return None if asked is None else asked.under(span_id(attempt_id))


def run_span(run: LockedRun, *, state: str, reason: str | None, failure_class: str | None) -> Span | None:
    """Return the span of a run that has just ended, or None for a run that belongs to no trace."""
    asked = parse(run.traceparent)
    if asked is None:
        return None
    attributes: dict[str, str | int] = {
        **_of_run(run),
        "windlass.state": state,
        "windlass.attempts": run.attempts,
    }
    if reason:
        attributes["windlass.reason"] = reason
    if failure_class:
        attributes["windlass.failure_class"] = failure_class
    failed = state in ("Failed", "TimedOut")
    return Span(
        name=f"run {run.task}",
        place=asked.under(span_id(run.id)),
        parent=asked.span_id,
        start=run.created_at,
        end=run.now,
        attributes=attributes,
        error=(reason or state) if failed else None,
    )


def attempt_spans(
    run: LockedRun,
    attempt: LockedAttempt,
    steps: Iterable[Mapping[str, Any]],
    *,
    outcome: str,
    reason: str | None,
    pod_name: str | None,
) -> Iterator[Span]:
    """Yield the spans of an attempt that has just ended, and of the steps that it ran."""
    place = attempt_place(run.traceparent, attempt.id)
    if place is None:
        return
    attributes: dict[str, str | int] = {
        **_of_run(run),
        "windlass.attempt": attempt.number,
        "windlass.attempt_id": str(attempt.id),
        "windlass.outcome": outcome,
    }
    if reason:
        attributes["windlass.reason"] = reason
    if pod_name:
        attributes["k8s.pod.name"] = pod_name
    yield Span(
        name=f"attempt {attempt.number}",
        place=place,
        parent=span_id(run.id),
        start=attempt.started_at,
        end=run.now,
        attributes=attributes,
        error=(reason or outcome) if outcome in ("Failed", "TimedOut", "Lost") else None,
    )
    for row in steps:
        yield _step_span(run, attempt, place, row)


def _step_span(run: LockedRun, attempt: LockedAttempt, place: TraceContext, row: Mapping[str, Any]) -> Span:
    failure = decode_error(row["error"])
    # A step that was under way when its attempt ended was cut short: its result was never saved, and it runs again.
    cut = row["state"] == "running"
    started = min(row["started_at"], run.now)
    return Span(
        name=f"step {row['name']}",
        place=place.under(step_span_id(str(attempt.id), row["key"])),
        parent=place.span_id,
        start=started,
        end=max(started, row["finished_at"] or run.now),
        attributes={
            **_of_run(run),
            "windlass.attempt": attempt.number,
            "windlass.step": row["key"],
            "windlass.step_state": "cut short" if cut else row["state"],
        },
        error="cut short" if cut else failure.type if failure is not None else None,
    )


def _of_run(run: LockedRun) -> dict[str, str | int]:
    return {"windlass.namespace": run.namespace, "windlass.task": run.task, "windlass.run_id": str(run.id)}
