"""What a runner is told of an attempt: code, payload, limits, and what the run has finished already."""

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass import protocol
from windlass_operator import config
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import compensations, runs, steps
from windlass_operator.ledger.database import Connection
from windlass_operator.services.recorder import Recorder

_STEPS_PER_PAGE: Final = 500


async def describe(
    connection: Connection, row: dict[str, object], token: str, record: Recorder
) -> protocol.ClaimedAttempt:
    """Return what a runner is told of an attempt, from its row in ``claimed_attempts``."""
    snapshot = runs.decode_snapshot(str(row["spec"]))
    run_id = UUID(str(row["run_id"]))
    undoing = row["state"] == RunState.COMPENSATING.value
    # What undoes a step has its own arguments with it, and needs no history.
    read = row["history"] and not undoing
    page = await page_of_steps(connection, run_id, after=0) if read else protocol.StepsPage(steps=[])
    undo = await page_of_compensations(connection, run_id) if undoing else protocol.CompensationsPage()
    left = None
    if snapshot.timeout is not None and not undoing:  # the run's time may be what it ended for
        left = ms(snapshot.timeout) + int(str(row["timeout_added_ms"])) - int(str(row["running_ms"]))
        left = max(1, left)
    attempt_timeout = None
    if snapshot.attempt_timeout is not None:
        attempt_timeout = ms(snapshot.attempt_timeout)
    deadline = None if undoing else row["deadline_ms"]
    state, state_sha256 = row["checkpoint"], row["checkpoint_sha256"]
    payload, sha256 = row["payload"], row["payload_sha256"]
    return protocol.ClaimedAttempt(
        attempt_id=str(row["id"]),
        token=token,
        run_id=str(run_id),
        number=int(str(row["number"])),
        max_attempts=snapshot.retry.max_attempts,
        task=str(row["task"]),
        namespace=str(row["namespace"]),
        entrypoint=snapshot.entrypoint or "",
        source=snapshot.source,
        lease_ms=ms(config.FIRST_LEASE),
        heartbeat_ms=ms(config.HEARTBEAT),
        payload=protocol.ABSENT if payload is None else msgspec.Raw(str(payload).encode()),
        payload_ref=_blob_ref(sha256, row["payload_size"]),
        steps=page.steps,
        next_steps=page.next_steps,
        attempt_timeout_ms=attempt_timeout,
        timeout_ms=left,
        added_ms=int(str(row["timeout_added_ms"])),
        deadline_ms=max(1, int(str(deadline))) if deadline is not None else None,
        checkpoint=protocol.ABSENT if state is None else msgspec.Raw(str(state).encode()),
        checkpoint_ref=_blob_ref(state_sha256, row["checkpoint_size"]),
        grace_ms=ms(config.CANCEL_GRACE),
        traceparent=record.place_of(
            row["traceparent"] if isinstance(row["traceparent"], str) else None, UUID(str(row["id"]))
        ),
        run_name=row["resource_name"] if isinstance(row["resource_name"], str) else None,
        tags=list(row["tags"]) if isinstance(row["tags"], list) else [],
        compensating=undoing,
        compensate=undo.compensations,
        more_compensations=undo.more,
    )


async def page_of_steps(connection: Connection, run_id: UUID, *, after: int) -> protocol.StepsPage:
    """Return finished steps up to the size that rides along with a claim, and a cursor if there are more."""
    rows = await steps.finished(connection, run_id, after=after, limit=_STEPS_PER_PAGE)
    page: list[protocol.Step] = []
    size = 0
    for row in rows:
        step = step_from_row(row)
        if step.error is not None:
            step.error.traceback = None  # for people; the code makes its own
        size += len(bytes(step.result)) + len(msgspec.json.encode(step.error)) + len(step.key) + 200
        if page and size > protocol.STEPS_IN_CLAIM_LIMIT:
            return protocol.StepsPage(steps=page, next_steps=str(after))
        page.append(step)
        after = row["position"]
    return protocol.StepsPage(steps=page, next_steps=str(after) if len(rows) == _STEPS_PER_PAGE else None)


async def page_of_compensations(connection: Connection, run_id: UUID) -> protocol.CompensationsPage:
    """Return what is left to undo, newest first, up to the size that rides along with a claim."""
    rows = await compensations.not_undone(connection, run_id, limit=_STEPS_PER_PAGE)
    page: list[protocol.Compensation] = []
    size = 0
    for row in rows:
        size += len(row["result"] or "") + len(row["compensation"]) + len(row["key"]) + 200
        if page and size > protocol.STEPS_IN_CLAIM_LIMIT:
            break
        page.append(_compensation_from_row(row))
    return protocol.CompensationsPage(compensations=page, more=bool(rows) and len(page) < rows[0]["n"])


def _compensation_from_row(row: dict[str, Any]) -> protocol.Compensation:
    return protocol.Compensation(
        key=row["key"],
        name=row["name"],
        compensation=msgspec.Raw(row["compensation"].encode()),
        result=protocol.ABSENT if row["result"] is None else msgspec.Raw(row["result"].encode()),
        result_ref=_blob_ref(row["result_sha256"], row["result_size"]),
    )


def step_from_row(row: dict[str, object]) -> protocol.Step:
    """Return a step as it travels."""
    result, sha256 = row["result"], row["result_sha256"]
    return protocol.Step(
        key=str(row["key"]),
        name=str(row["name"]),
        args_hash=str(row["args_hash"]),
        state=row["state"],  # type: ignore[arg-type]  # the schema's CHECK holds it to the four
        kind=row["kind"],  # type: ignore[arg-type]  # as it was saved
        run_id=str(row["child_id"]) if row["child_id"] else None,
        durable=bool(row["durable"]),
        tries=int(str(row["tries"])),
        result=protocol.ABSENT if result is None else msgspec.Raw(str(result).encode()),
        result_ref=_blob_ref(sha256, row["result_size"]),
        error=steps.decode_error(row["error"] if isinstance(row["error"], str) else None),
        place=row["place"] if isinstance(row["place"], int) else None,
        code_id=row["code_id"] if isinstance(row["code_id"], str) else None,
        replaces=bool(row["replaced"]),
    )


def _blob_ref(sha256: object, size: object) -> protocol.BlobRef | None:
    return protocol.BlobRef(sha256=str(sha256), size=int(str(size))) if sha256 else None


def ms(duration: timedelta) -> int:
    """Return a duration as it travels: in whole milliseconds."""
    return round(duration.total_seconds() * 1000)
