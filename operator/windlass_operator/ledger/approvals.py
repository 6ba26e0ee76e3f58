"""What runs ask people: rows before resources, the first decision under the run's lock."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.approvals import Approval, ApprovalState, Door, approval_name
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("approvals")
_NEWEST: Final = 2**63 - 1


async def begin(connection: Connection, run_id: UUID, key: str, *, question: str, details: str | None) -> None:
    """Write an approval down in the transaction that begins its wait; its name is reserved with it."""
    found = await (await connection.execute(_SQL["task_of"], {"run_id": run_id})).fetchone()
    assert found is not None, "whoever begins a wait has an attempt of the run"
    parameters = {"run_id": run_id, "key": key, "question": question, "details": details}
    await connection.execute(_SQL["begin"], {**parameters, "name": approval_name(found["task"], run_id, key)})


async def get(connection: Connection, run_id: UUID, key: str) -> Approval | None:
    """Return an approval, or None."""
    row = await (await connection.execute(_SQL["get"], {"run_id": run_id, "key": key})).fetchone()
    return None if row is None else _approval(row)


async def by_name(database: Database, project_uid: str, name: str) -> Approval | None:
    """Return the approval of a project with this name, or None."""
    rows = await database.fetch(_SQL["by_name"], {"project_uid": project_uid, "name": name})
    return _approval(rows[0]) if rows else None


async def is_being_made(database: Database, namespace: str, name: str) -> bool:
    """Whether a resource of this name is about to be ours."""
    return bool(await database.fetch(_SQL["unmade_of_name"], {"namespace": namespace, "name": name}))


async def by_uids(database: Database, uids: Sequence[str]) -> dict[str, Approval]:
    """Return the approvals of resources, by UID. Unknown ones are left out."""
    rows = await database.fetch(_SQL["by_uids"], {"uids": list(uids)})
    return {row["uid"]: _approval(row) for row in rows}


async def page(
    database: Database, project_uid: str, states: frozenset[ApprovalState], *, before: int | None, limit: int
) -> list[Approval]:
    """Return approvals of a project, newest first.

    Args:
        database: The ledger.
        project_uid: Whose.
        states: In one of these; empty for all.
        before: Begin after the one with this id.
        limit: At most so many.
    """
    name = "pending_page" if states == {ApprovalState.PENDING} else "page"
    wanted = [state.value for state in states] or None
    parameters = {"project_uid": project_uid, "states": wanted, "before": before or _NEWEST, "limit": limit}
    return [_approval(row) for row in await database.fetch(_SQL[name], parameters)]


async def decide(
    connection: Connection, found: Approval, state: ApprovalState, *, by: str, comment: str | None, through: Door
) -> datetime | None:
    """Record a decision; the run is locked. Returns its time, or None if the approval is not pending any more."""
    parameters = {"state": state.value, "by": by, "comment": comment, "through": through}
    cursor = await connection.execute(_SQL["decide"], {**parameters, "run_id": found.run_id, "key": found.key})
    row = await cursor.fetchone()
    return None if row is None else row["decided_at"]


async def close_over(database: Database) -> int:
    """Record which approvals are over without a decision. Returns how many."""
    return len(await database.fetch(_SQL["close_over"]))


async def to_create(database: Database, limit: int) -> list[Approval]:
    """Return pending approvals without a resource."""
    return [_approval(row) for row in await database.fetch(_SQL["to_create"], {"limit": limit})]


async def created(database: Database, found: Approval, uid: str) -> None:
    """Record the resource of an approval."""
    await database.fetch(_SQL["created"], {"run_id": found.run_id, "key": found.key, "uid": uid})


async def rename(database: Database, found: Approval) -> None:
    """Give an approval without a resource another name: something else has the one that was reserved."""
    name = approval_name(found.task, found.run_id, found.key, again=found.named + 1)
    parameters = {"run_id": found.run_id, "key": found.key, "name": name}

    async def work(connection: Connection) -> None:
        await runs.lock(connection, found.run_id)  # before any of its waits
        await connection.execute(_SQL["rename_wait"], parameters)
        await connection.execute(_SQL["rename"], parameters)

    await database.transaction(work)


async def postpone(database: Database, found: Approval, delay: timedelta) -> None:
    """Leave an approval's resource alone for a while."""
    await database.fetch(_SQL["postpone"], {"run_id": found.run_id, "key": found.key, "delay": delay})


async def to_show(database: Database, limit: int) -> list[Approval]:
    """Return approvals whose resource shows less than the ledger knows."""
    return [_approval(row) for row in await database.fetch(_SQL["to_show"], {"limit": limit})]


async def shown(database: Database, found: Approval, *, spec_decided: bool) -> None:
    """Record that the resource shows this revision."""
    parameters = {"run_id": found.run_id, "key": found.key, "uid": found.uid}
    await database.fetch(_SQL["shown"], {**parameters, "revision": found.revision, "spec_decided": spec_decided})


async def seen(database: Database, uid: str, generation: int, *, spec_decided: bool, ignored: bool) -> None:
    """Record what a resource was seen to be.

    Args:
        database: The ledger.
        uid: Of the resource.
        generation: Of the resource.
        spec_decided: Its spec has a decision.
        ignored: That decision is not the one that counts.
    """
    parameters = {"uid": uid, "generation": generation, "spec_decided": spec_decided, "ignored": ignored}
    await database.fetch(_SQL["seen"], parameters)


async def again(database: Database, uid: str) -> None:
    """Ask for a status to be written although nothing has changed."""
    await database.fetch(_SQL["again"], {"uid": uid})


async def gone(database: Database, uid: str) -> None:
    """Record that a resource is gone. While the run waits, another one will be made."""
    await database.fetch(_SQL["gone"], {"uid": uid})


async def believed(database: Database, age: timedelta) -> list[dict[str, Any]]:
    """Return uid, name and namespace of resources that must be there, of approvals older than ``age``."""
    return await database.fetch(_SQL["believed"], {"age": age})


async def to_remove(database: Database, ttl: timedelta, limit: int) -> list[dict[str, Any]]:
    """Return uid, name and namespace of resources whose run ended ``ttl`` ago."""
    return await database.fetch(_SQL["to_remove"], {"ttl": ttl, "limit": limit})


def _approval(row: dict[str, Any]) -> Approval:
    return Approval(
        id=row["id"],
        run_id=row["run_id"],
        key=row["key"],
        name=row["name"],
        namespace=row["namespace"],
        task=row["task"],
        question=row["question"],
        details=row["details"],
        expires_at=row["expires_at"],
        state=ApprovalState(row["state_now"]),
        by=row["decided_by"],
        comment=row["comment"],
        through=row["through"],
        over_at=row["decided_at"],
        created_at=row["created_at"],
        revision=row["revision"],
        uid=row["uid"],
        named=row["named"],
        generation=row["generation"],
        spec_decided=row["spec_decided"],
        ignored=row["ignored"],
        run_name=row["run_name"],
        run_uid=row["run_uid"],
    )
