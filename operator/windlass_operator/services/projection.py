"""Projection: a run's row becomes the status of its resource. Nothing is ever decided from that status."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass.durations import format_duration
from windlass_operator import metrics
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import handles, projection, runs
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.steps import decode_error
from windlass_operator.resources.conditions import run_conditions
from windlass_operator.resources.reasons import Reason

log = structlog.get_logger()

_BATCH: Final = 100
_AT_ONCE: Final = 24
"""Statuses written at once. A busy API server answers each late, so many must be under way; the client's other
connections stay free for pods, the Lease and the rest."""
_MESSAGE: Final = 1024


class RunResources(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def patch_run_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write the status; False when the resource is gone or is another one of that name."""
        ...

    async def delete_run(self, namespace: str, name: str, uid: str) -> bool:
        """Delete the resource; False if it was gone."""
        ...


class ProjectionService:
    """Writes statuses and removes resources that outlived their ``ttlAfterFinished``."""

    def __init__(self, database: Database, resources: RunResources) -> None:
        self._database = database
        self._resources = resources

    async def project_due(self) -> int:
        """Write what is due. Returns how many resources were written; 0 means that none was behind."""
        due = await projection.due(self._database, _BATCH)
        if not due:
            return 0
        ids = [run_id for run_id, _ in due]
        # Rows are read after the entries: they may be newer than asked for, never older.
        rows = {row["id"]: row for row in await runs.get_many(self._database, ids)}
        shown = await handles.of_runs(self._database, ids)
        written: dict[UUID, int] = {}
        waiting, outage = iter(ids), False
        failures: list[Exception] = []

        async def worker() -> None:
            nonlocal outage
            for run_id in waiting:
                try:
                    await self._project(run_id, rows[run_id], shown.get(run_id, []))
                    written[run_id] = rows[run_id]["revision"]
                except Exception as error:
                    failures.append(error)
                    outage = outage or isinstance(error, WindlassError)
                if outage:  # the others would only wait for the same
                    return

        await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
        if written:
            for waited in await projection.done(self._database, written):
                metrics.PROJECTION_DELAY.observe(waited)
        if failures:
            raise failures[0]  # the loop waits and comes back
        return len(written)

    async def _project(self, run_id: UUID, row: dict[str, Any], shown: list[dict[str, Any]]) -> None:
        """Write one run's status, in each resource that shows it.

        Raises:
            WindlassError: One that may pass. What this status alone is refused for is logged, and not tried again.
        """
        namespace, patch = row["namespace"], self._resources.patch_run_status
        try:
            if row["resource_uid"] is not None:
                await patch(namespace, row["resource_name"], row["resource_uid"], status_of(row))
            for handle in shown:
                await patch(namespace, handle["name"], handle["resource_uid"], status_of_handle(row, handle))
        except WindlassError as error:
            if error.retryable:
                raise
            log.warning("status not written", run=str(run_id), error=error.message)

    async def remove_expired(self) -> int:
        """Delete resources of finished runs after their TTL. Returns how many."""
        expired = await projection.expired_resources(self._database)
        for row in expired:
            # Released first: a watch event of our own deletion must find nothing to cancel.
            await projection.release_resource(self._database, row["id"], row["resource_uid"])
            found = await self._resources.delete_run(row["namespace"], row["resource_name"], row["resource_uid"])
            if not found:
                await projection.forget_twin(self._database, row["id"])
        return len(expired)


def status_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a run. Absent values are null, so that a merge patch removes what was there."""
    return {
        **facts_of_run(row),
        "observedGeneration": row["resource_generation"],
        "conditions": [
            condition.to_object()
            for condition in run_conditions(
                RunState(row["state"]),
                reason=row["reason"],
                message=(row["message"] or "")[:_MESSAGE] or None,
                generation=row["resource_generation"],
                at=row["finished_at"] or row["created_at"],
                spec_changed=row["resource_changed"],
            )
        ],
    }


def facts_of_run(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same without what a resource's status says of the resource."""
    state = RunState(row["state"])
    started, finished = row["started_at"], row["finished_at"]
    failure = decode_error(row["error"])
    message = (row["message"] or "")[:_MESSAGE] or None
    return {
        "runId": str(row["id"]),
        "state": state.value,
        "reason": _word(row["reason"]),
        "message": message,
        "attempt": row["attempts"],
        "maxAttempts": _max_attempts(row["spec"]) if row["spec"] else None,
        "failures": {"user": row["user_failures"], "infra": row["infra_failures"]},
        "nextAttemptAt": _time(row["available_at"]) if _waits_for_attempt(state, row) else None,
        "steps": {
            "succeeded": row["steps_succeeded"],
            "failed": row["steps_failed"],
            "running": row["steps_running"],
            "waiting": row["steps_waiting"],
        },
        "currentStep": _word(row["current_step"]),
        "protected": True if row["protected"] else None,
        "result": None if row["result"] is None else json.loads(row["result"]),
        "resultRef": {"sha256": row["result_sha256"], "size": row["result_size"]} if row["result_sha256"] else None,
        "error": None
        if failure is None or state is RunState.SUCCEEDED
        else {"type": _word(failure.type), "message": failure.message[:_MESSAGE], "class": failure.failure_class},
        "version": row["version"],
        "podName": row["pod_name"],
        "startedAt": _time(started),
        "finishedAt": _time(finished),
        "duration": format_duration(finished - started) if finished and started else None,
        "traceId": _trace_id(row["traceparent"]),
    }


@lru_cache(maxsize=256)
def _max_attempts(spec: str) -> int:
    return runs.decode_snapshot(spec).retry.max_attempts


def _waits_for_attempt(state: RunState, row: Mapping[str, Any]) -> bool:
    """Whether another attempt follows and has not begun."""
    if state is RunState.COMPENSATING:
        return not row["undoing"]
    return state is RunState.QUEUED and (bool(row["attempts"]) or row["available_at"] > row["created_at"])


def status_of_handle(row: Mapping[str, Any], handle: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a further resource of a run: the run's own, and that it is a handle."""
    first = f"Run resource {row['resource_name']!r}" if row["resource_name"] else "another caller"
    why = f"A run with this idempotency key was asked for before, by {first}; this shows that run."
    if row["reason"]:
        why = f"{why} {row['reason']}: {row['message'] or 'no message'}"
    changed = {"resource_generation": handle["generation"], "resource_changed": handle["changed"]}
    return status_of({**row, **changed, "reason": row["reason"] or Reason.DEDUPLICATED.value, "message": why})


def _word(text: str | None) -> str | None:
    """Return a short text within what the CRD allows: a status that is refused for its length would never be seen."""
    return None if text is None else text[:256]


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _trace_id(traceparent: str | None) -> str | None:
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None
