"""Runs, their versions and events. Each function is one or a few statements on the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass_operator.domain.compensation import Ending
from windlass_operator.domain.errors import ValueNotStoredError
from windlass_operator.domain.gates import Gate, QueueFacts, RunFacts, gates
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.pod_key import pod_key
from windlass_operator.domain.run_state import RunEvent, RunState, transition
from windlass_operator.domain.task_snapshot import DEFAULT_START_TIMEOUT, TaskSnapshot
from windlass_operator.ledger import compensations
from windlass_operator.ledger.database import Connection, Database, broken_reference
from windlass_operator.ledger.queries import load

_SQL: Final = load("runs")
_CLAIMABLE: Final = frozenset({RunState.QUEUED, RunState.COMPENSATING})

_EVENTS: Final = {RunEvent.RETRY: "RetryScheduled", RunEvent.RESUME: "Resumed", RunEvent.WAKE: "Woken"}
"""What is called otherwise than the state it leads to."""
_ADDED_LATER: Final = frozenset({"total_timeout", "queue", "priority"})
_OF_NO_RUN: Final = frozenset({"standby"})
"""Parts of a snapshot that no run depends on: an edit of them makes no version."""


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value as the ledger keeps it: the text itself, or the digest of a blob. Both absent: no value."""

    text: str | None = None
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A row of ``task_version``."""

    id: int
    version: int
    pod_key: str
    queue_id: int
    snapshot: TaskSnapshot


@dataclass(frozen=True, slots=True)
class UnreadVersion:
    """The version of a snapshot, if the ledger has it: its row was not looked for."""

    snapshot: TaskSnapshot
    spec_hash: str


@dataclass(frozen=True, slots=True)
class LockedRun:
    """What a decision needs of a run. Its row is locked until the transaction ends."""

    id: UUID
    project_id: int
    task: str
    version_id: int | None
    """None: it waits for its Task."""
    state: RunState
    reason: str | None
    attempts: int
    user_failures: int
    infra_failures: int
    running_ms: int
    revision: int
    resource_uid: str | None
    snapshot: TaskSnapshot | None
    namespace: str
    traceparent: str | None
    created_at: datetime
    started_at: datetime | None
    timeout_added_ms: int
    """Running time that the code has added to ``spec.timeout``."""
    overdue: bool
    """Its ``totalTimeout`` is over."""
    now: datetime
    """The transaction's time: what it closes or ends, ends now."""
    ending: Ending | None = None
    """What it ends with, while it is being compensated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decision to write."""

    event: RunEvent
    reason: str | None = None
    message: str | None = None
    delay: timedelta | None = None
    user_failures: int = 0
    infra_failures: int = 0
    running_ms: int = 0
    compensation_failures: int = 0
    failure_class: str | None = None
    """Who has to answer for the end, if this is one; kept while the run is being compensated."""
    error: str | None = None
    result: Value = field(default_factory=Value)
    attempt: int | None = None


async def ensure_project(connection: Connection, uid: str, namespace: str) -> int:
    """Return the id of the project with this namespace UID; the first call makes it."""
    cursor = await connection.execute(_SQL["ensure_project"], {"uid": uid, "namespace": namespace})
    row = await cursor.fetchone()
    assert row is not None, "an upsert returns its row"
    return int(row["id"])


async def ensure_version(
    connection: Connection, project_id: int, project_uid: str, task: str, snapshot: TaskSnapshot
) -> Version:
    """Return the version of this snapshot; a snapshot that was never seen becomes the next one."""
    text = msgspec.json.encode(snapshot).decode()
    parameters = {"project_id": project_id, "task": task, "spec_hash": _spec_hash(text)}
    found = await (await connection.execute(_SQL["find_version"], parameters)).fetchone()
    if found is None:
        await connection.execute(_SQL["lock_project"], {"project_id": project_id})
        key = pod_key(project_uid, snapshot.pod)
        parts = msgspec.json.encode(snapshot.pod).decode()
        in_pool = {"pool": snapshot.pod.pool}
        await connection.execute(
            _SQL["ensure_pod_key"], {"key": key, "project_id": project_id, "parts": parts, **in_pool}
        )
        queue = {"project_id": project_id, "name": snapshot.queue or task, "named": snapshot.queue is not None}
        row = await (await connection.execute(_SQL["ensure_queue"], queue)).fetchone()
        assert row is not None, "an upsert returns its row"
        version = {"spec": text, "pod_key": key, "queue_id": row["id"], "priority": snapshot.priority or 0}
        added = await connection.execute(_SQL["add_version"], {**parameters, **version})
        found = await added.fetchone()
        if found is None:  # another import added it while we waited for the project's lock
            found = await (await connection.execute(_SQL["find_version"], parameters)).fetchone()
    assert found is not None, "the version was found or added"
    return _version(found)


def unread(snapshot: TaskSnapshot) -> UnreadVersion:
    """Return the version of a snapshot without asking the ledger for it."""
    return UnreadVersion(snapshot, _spec_hash(msgspec.json.encode(snapshot).decode()))


def _spec_hash(spec: str) -> str:
    """Return what two equal Tasks have in common. What a later release added counts only where it is used.

    An upgrade would otherwise give every Task a new version.
    """
    parts = {k: v for k, v in msgspec.json.decode(spec).items() if k not in _OF_NO_RUN}
    parts["pod"] = {k: v for k, v in parts["pod"].items() if k != "pool" or v is not None}
    return content_hash({k: v for k, v in parts.items() if k not in _ADDED_LATER or v is not None})


async def version_by_number(connection: Connection, project_id: int, task: str, version: int) -> Version | None:
    """Return a version by its number, or None."""
    parameters = {"project_id": project_id, "task": task, "version": version}
    row = await (await connection.execute(_SQL["version_by_number"], parameters)).fetchone()
    return None if row is None else _version(row)


async def payload_of(connection: Connection, run_id: UUID) -> Value:
    """Return a run's payload; that of an unknown run is nothing."""
    row = await (await connection.execute(_SQL["payload"], {"run_id": run_id})).fetchone()
    return Value() if row is None else Value(row["payload"], row["payload_sha256"], row["payload_size"])


async def lock(connection: Connection, run_id: UUID) -> LockedRun | None:
    """Lock a run and return what a decision needs, or None if it is unknown."""
    return (await lock_all(connection, [run_id])).get(run_id)


async def lock_all(connection: Connection, run_ids: Collection[UUID]) -> dict[UUID, LockedRun]:
    """Lock runs, in the order of their ids, and return by id what decisions need; unknown ones are left out."""
    items = msgspec.json.encode([{"id": run_id} for run_id in run_ids]).decode()
    rows = await (await connection.execute(_SQL["lock_runs"], {"items": items})).fetchall()
    return {row["id"]: await _locked(connection, row) for row in rows}


async def _locked(connection: Connection, row: dict[str, Any]) -> LockedRun:
    state = RunState(row["state"])
    return LockedRun(
        id=row["id"],
        project_id=row["project_id"],
        task=row["task"],
        version_id=row["task_version_id"],
        state=state,
        reason=row["reason"],
        attempts=row["attempts"],
        user_failures=row["user_failures"],
        infra_failures=row["infra_failures"],
        running_ms=row["running_ms"],
        revision=row["revision"],
        resource_uid=row["resource_uid"],
        snapshot=None if row["spec"] is None else decode_snapshot(row["spec"]),
        namespace=row["namespace"],
        traceparent=row["traceparent"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        timeout_added_ms=row["timeout_added_ms"],
        overdue=row["overdue"],
        now=row["now"],
        ending=await compensations.ending(connection, row) if state is RunState.COMPENSATING else None,
    )


async def apply(connection: Connection, run: LockedRun, change: Change) -> RunState:
    """Write a decision; see :func:`apply_all`."""
    return (await apply_all(connection, [(run, change)]))[0]


async def apply_all(connection: Connection, decided: Sequence[tuple[LockedRun, Change]]) -> list[RunState]:
    """Write decisions: states, counts, events, queue entries and the wish to be projected. The runs are locked.

    A run that would end without success, and has finished steps that can be undone, is compensated first.

    Returns:
        The states that were written.

    Raises:
        IllegalTransitionError: A run's state has no such arrow.
        ValueNotStoredError: A result refers to a large value that is not stored.
    """
    states = [transition(run.state, change.event) for run, change in decided]
    undone = await _must_compensate(connection, [run for (run, _), s in zip(decided, states, strict=True) if _fails(s)])
    writes = []
    for n, (run, change) in enumerate(decided):
        ends_as = states[n] if _fails(states[n]) and run.id in undone else None
        writes.append(_write(run, change, states[n], ends_as))
        states[n] = RunState(writes[n]["state"])
    items = {"items": msgspec.json.encode(writes).decode()}  # lists of many columns cost more than the statement
    with broken_reference("run_result_stored", ValueNotStoredError()):
        row = await (await connection.execute(_SQL["change_runs"], items)).fetchone()
    assert row is not None and row["n"] == len(decided), "the rows are locked, so no revision can have moved"  # noqa: PT018
    await _queue(connection, [(run, state) for (run, _), state in zip(decided, states, strict=True)])
    return states


def _fails(state: RunState) -> bool:
    return state.final and state is not RunState.SUCCEEDED


async def _must_compensate(connection: Connection, ending: Sequence[LockedRun]) -> set[UUID]:
    """Return which of some runs, that are about to end without success, have finished steps to undo first."""
    asked = [run.id for run in ending if run.ending is None]
    return await compensations.any_not_undone(connection, asked) if asked else set()


def _write(run: LockedRun, change: Change, state: RunState, ends_as: RunState | None) -> dict[str, Any]:
    """Return the columns of a decision. ``ends_as``: what the run ends with once it is compensated."""
    if ends_as is not None:
        change = replace(change, event=RunEvent.COMPENSATE, delay=timedelta(0))
        state = transition(run.state, change.event)
    shown = run.ending if run.ending is not None and not state.final else change
    return {
        "id": run.id,
        "revision": run.revision,
        "state": state.value,
        "reason": shown.reason,  # while a run is being compensated: why it ends
        "message": shown.message,
        "ends_as": ends_as.value if ends_as else None,
        "ends_reason": change.reason if ends_as else None,
        "ends_message": change.message if ends_as else None,
        "ends_class": change.failure_class if ends_as else None,
        "compensation_failures": change.compensation_failures,
        "user_failures": change.user_failures,
        "infra_failures": change.infra_failures,
        "running_ms": change.running_ms,
        "error": change.error,
        "result": change.result.text,
        "result_sha256": change.result.sha256,
        "result_size": change.result.size,
        "delay": None if change.delay is None else change.delay.total_seconds(),
        "final": state.final,
        "drops": state.final or ends_as is not None,
        "event": event_name(change.event, state),
        "attempt": change.attempt,
        "event_reason": change.reason,
        "event_message": change.message,
    }


def event_name(event: RunEvent, state: RunState) -> str:
    """Return what the timeline calls an event that led to ``state``."""
    return _EVENTS.get(event, state.value)


async def _queue(connection: Connection, changed: Sequence[tuple[LockedRun, RunState]]) -> None:
    """Give runs that may be claimed their entries in the queue, and take the entries of those that may not any more."""
    before = [run.id for run, _ in changed if run.state in _CLAIMABLE]
    taken: set[UUID] = set()
    if before:
        rows = await (await connection.execute(_SQL["dequeue"], {"run_ids": before})).fetchall()
        taken = {row["run_id"] for row in rows}
    # The entry of a queued run that we cannot take is in the hands of a claim that waits for the run: it finds what we
    # make of it. One that is being compensated has none while its attempt is open.
    new = [
        run.id
        for run, state in changed
        if state in _CLAIMABLE and (run.id in taken or run.state is not RunState.QUEUED)
    ]
    if new:
        await _enqueue(connection, new)


async def _enqueue(connection: Connection, run_ids: Collection[UUID]) -> None:
    for row in await (await connection.execute(_SQL["enqueue"], {"run_ids": list(run_ids)})).fetchall():
        connection.may_start(row["pod_key"], row["due"])


async def add_event(
    connection: Connection,
    run_id: UUID,
    n: int,
    kind: str,
    *,
    attempt: int | None = None,
    reason: str | None = None,
    message: str | None = None,
) -> None:
    """Add an event. ``n`` is the run's revision, taken under its row lock."""
    await connection.execute(
        _SQL["add_event"],
        {"run_id": run_id, "n": n, "type": kind, "attempt": attempt, "reason": reason, "message": message},
    )


async def want_projection(connection: Connection, run_ids: list[UUID]) -> None:
    """Ask for the resources of runs to be written; runs without one are left out."""
    await connection.execute(_SQL["want_projection"], {"run_ids": run_ids})


async def bind_version(connection: Connection, run_id: UUID, version: Version) -> bool:
    """Give a run that waited for its Task the version to run; False when it no longer waits."""
    parameters = _of_version(run_id, version)
    row = await (await connection.execute(_SQL["bind_version"], parameters)).fetchone()
    if row is None:
        return False
    await _enqueue(connection, [run_id])
    await add_event(connection, run_id, row["revision"], "TaskFound")
    await want_projection(connection, [run_id])
    return True


async def use_version(connection: Connection, run_id: UUID, version: Version) -> None:
    """Let a locked run that is in no queue go on with another version of its Task."""
    await connection.execute(_SQL["use_version"], _of_version(run_id, version))


def _of_version(run_id: UUID, version: Version) -> dict[str, Any]:
    return {"run_id": run_id, "task_version_id": version.id, "total_timeout": version.snapshot.total_timeout}


async def set_reason(
    connection: Connection, run_ids: list[UUID], reason: str | None, message: str | None
) -> list[UUID]:
    """Say why queued runs do not start (None: nothing holds them). Returns those for which that is news."""
    parameters = {"run_ids": run_ids, "reason": reason, "message": message}
    rows = await (await connection.execute(_SQL["set_reason"], parameters)).fetchall()
    for row in rows:
        if reason is not None:
            await add_event(connection, row["id"], row["revision"], "Held", reason=reason, message=message)
    ids = [row["id"] for row in rows]
    await want_projection(connection, ids)
    return ids


async def note_progress(database: Database, run_id: UUID) -> bool:
    """Make new step counts of a running run visible in its resource; False if it has none, or has ended."""

    async def work(connection: Connection) -> bool:
        row = await (await connection.execute(_SQL["note_progress"], {"run_id": run_id})).fetchone()
        if row is not None:
            await want_projection(connection, [run_id])
        return row is not None

    return await database.transaction(work)


async def waiting_for_task(database: Database, project_id: int, task: str) -> list[dict[str, Any]]:
    """Return runs that wait for this Task: id, wanted_version, payload."""
    return await database.fetch(_SQL["waiting_for_task"], {"project_id": project_id, "task": task})


async def missing_tasks(database: Database) -> list[dict[str, Any]]:
    """Return the Tasks that runs wait for: uid and namespace of the project, name of the task."""
    return await database.fetch(_SQL["missing_tasks"])


async def held(database: Database) -> list[dict[str, Any]]:
    """Return queued runs that a config problem holds, longest first."""
    return await database.fetch(_SQL["held_runs"])


async def by_resource(connection: Connection, resource_uid: str) -> UUID | None:
    """Return the run that a resource asked for or is a handle on, or None."""
    cursor = await connection.execute(_SQL["runs_by_resource"], {"resource_uids": [resource_uid]})
    row = await cursor.fetchone()
    return None if row is None else UUID(str(row["id"]))


async def by_resources(database: Database, resource_uids: list[str]) -> dict[str, UUID]:
    """Return the runs that resources asked for or are handles on, by the resource's UID. Unknown ones are left out."""
    rows = await database.fetch(_SQL["runs_by_resource"], {"resource_uids": resource_uids})
    return {row["resource_uid"]: row["id"] for row in rows}


async def see_generation(database: Database, resource_uid: str, generation: int, resource_hash: str) -> None:
    """Record the generation of a resource that was seen, and whether it still asks for what was accepted."""

    async def work(connection: Connection) -> None:
        parameters = {"resource_uid": resource_uid, "generation": generation, "resource_hash": resource_hash}
        row = await (await connection.execute(_SQL["see_generation"], parameters)).fetchone()
        if row is not None:
            await want_projection(connection, [row["id"]])

    await database.transaction(work)


async def known(connection: Connection, run_id: UUID) -> bool:
    """Whether the ledger has this run."""
    return await (await connection.execute(_SQL["run_known"], {"run_id": run_id})).fetchone() is not None


async def bind_finished_twin(
    connection: Connection, project_id: int, resource_name: str, resource_hash: str, resource_uid: str
) -> UUID | None:
    """Bind a re-created resource to the finished run that our own TTL took the resource of; None if there is none."""
    parameters = {"project_id": project_id, "resource_name": resource_name, "resource_hash": resource_hash}
    row = await (await connection.execute(_SQL["finished_twin"], parameters)).fetchone()
    if row is None:
        return None
    await connection.execute(_SQL["bind_resource"], {"run_id": row["id"], "resource_uid": resource_uid})
    await want_projection(connection, [row["id"]])
    return UUID(str(row["id"]))


_GET_ONE: Final = _SQL["get_run"].replace("= ANY(%(run_ids)s)", "= %(run_id)s")
"""The same of one run. PostgreSQL keeps its plan; with an array it plans each time anew, which takes milliseconds."""


async def get_many(database: Database, run_ids: list[UUID]) -> list[dict[str, Any]]:
    """Return full rows with version, pod and step counts, newest first."""
    if len(run_ids) == 1:
        rows = await database.fetch(_GET_ONE, {"run_id": run_ids[0]})
    else:
        rows = await database.fetch(_SQL["get_run"], {"run_ids": run_ids})
    return [_with_reason(row) for row in sorted(rows, key=lambda row: str(row["id"]), reverse=True)]


async def new_rows(connection: Connection, run_ids: list[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return by id what an answer shows of runs that wait in their queue and were never claimed.

    One that was, as it may be when the word of its commit was lost, is left out, and any other as well.
    """
    rows = await (await connection.execute(_SQL["get_new"], {"run_ids": run_ids})).fetchall()
    return {row["id"]: _with_reason(_UNTOUCHED | row) for row in rows}


_UNTOUCHED: Final[dict[str, Any]] = {
    "attempts": 0, "user_failures": 0, "infra_failures": 0, "undoing": False,
    "steps_succeeded": 0, "steps_failed": 0, "steps_running": 0, "steps_waiting": 0, "current_step": None,
    "protected": False,
    "pod_name": None, "started_at": None, "finished_at": None, "error": None,
    "result": None, "result_sha256": None, "result_size": None,
}  # fmt: skip
"""What is the same of all runs that nobody has claimed."""


async def which_exist(connection: Connection, run_ids: list[UUID]) -> set[UUID]:
    """Return those of some runs that the ledger has."""
    rows = await (await connection.execute(_SQL["which_exist"], {"run_ids": run_ids})).fetchall()
    return {row["id"] for row in rows}


def facts_of(row: Mapping[str, Any]) -> RunFacts:
    """Return what is known of a queued run, from a full row."""
    queue = None
    if row["queue"] is not None:
        queue = QueueFacts(
            row["queue"],
            row["queue_running"],
            row["queue_concurrency"],
            paused=row["queue_paused"],
            missing=row["queue_missing"],
        )
    held = Gate(row["reason"], row["message"] or "") if row["held_since"] is not None else None
    missing_pool = row["pool"] if row["pool_missing"] else None
    return RunFacts(row["available_at"], row["attempts"], queue, held, missing_pool)


def _with_reason(row: dict[str, Any]) -> dict[str, Any]:
    """Give a run that waits for its queue the reason: no row says it, because it changes with the rows of others."""
    if row["reason"] is None and row["queue"] is not None:
        waits = gates(facts_of(row), row["now"])
        if waits:
            return {**row, "reason": waits[0].reason, "message": waits[0].message}
    return row


async def newest_of_name(database: Database, project_id: int, name: str) -> list[UUID]:
    """Return the id of the newest run of the resources of this name, or nothing."""
    rows = await database.fetch(_SQL["newest_of_name"], {"project_id": project_id, "name": name})
    return [row["id"] for row in rows]


async def events(database: Database, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return events of a run in order."""
    return await database.fetch(_SQL["list_events"], {"run_id": run_id, "after": after, "limit": limit})


async def project_by_uid(database: Database, uid: str) -> dict[str, Any] | None:
    """Return id, namespace and credential hash of a project, or None."""
    rows = await database.fetch(_SQL["project_by_uid"], {"uid": uid})
    return rows[0] if rows else None


async def set_credential_hash(database: Database, project_id: int, credential_hash: bytes) -> None:
    """Record the hash of a namespace's runner credential."""
    await database.fetch(_SQL["set_credential_hash"], {"project_id": project_id, "credential_hash": credential_hash})


@lru_cache(maxsize=64)
def decode_snapshot(text: str) -> TaskSnapshot:
    """Return the snapshot that ``task_version.spec`` keeps. Most runs are of a few Tasks: theirs is shared."""
    return msgspec.json.decode(text, type=TaskSnapshot)


def start_timeout(row: dict[str, Any]) -> timedelta:
    """Return how long a config problem may hold the run of ``row``: its Task's, or the default for a missing Task."""
    return DEFAULT_START_TIMEOUT if row["spec"] is None else decode_snapshot(row["spec"]).start_timeout


def _version(row: dict[str, Any]) -> Version:
    return Version(
        id=row["id"],
        version=row["version"],
        pod_key=row["pod_key"],
        queue_id=row["queue_id"],
        snapshot=decode_snapshot(row["spec"]),
    )
