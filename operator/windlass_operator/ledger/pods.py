"""Pods and pod keys, as the ledger knows them. A pod's row comes before the pod."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass_operator.domain.backlog import KeyFacts
from windlass_operator.domain.gates import Waiting, admitted
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan
from windlass_operator.ledger import queues
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("pods")


@dataclass(frozen=True, slots=True)
class KeyBacklog:
    """What a pod key has to do, and what is on its way to do it."""

    key: str
    project_id: int
    project_uid: str
    namespace: str
    parts: PodParts
    task: str
    """A task of the key, for the pods' names and labels."""
    facts: KeyFacts
    next_at: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True)
class PodRow:
    """A pod as the ledger knows it."""

    id: UUID
    project_id: int
    pod_key: str
    name: str
    namespace: str
    uid: str | None
    state: str
    claim_id: str | None
    ended: bool
    reason: str | None
    ahead: bool
    """A standby pod, which was started before any run needed it."""
    draining: bool
    """It gets nothing more."""
    protection: str | None = None
    """Whether it carries the annotations of a protected step: see ``ledger.protection``."""

    @property
    def served(self) -> bool:
        """Whether it came as far as it had to. A standby pod asks long before it takes anything."""
        return self.draining or (self.state == "Claimed" if self.ahead else self.claim_id is not None)


async def backlog(database: Database) -> list[KeyBacklog]:
    """Return the backlog of every pod key that has queued runs, or pods that are kept ready."""
    rows = await database.fetch(_SQL["backlog"])
    facts = await queues.facts(database, {row["queue_id"] for row in rows if row["queue_id"] is not None})
    due = [Waiting(row["key"], row["queue_id"], row["ready"], row["oldest"]) for row in rows if row["ready"]]
    ready = admitted(due, facts)
    found: dict[str, KeyBacklog] = {}
    for row in rows:
        before = found.get(row["key"])
        upcoming = [at for at in (row["next_at"], before.next_at if before else None) if at is not None]
        found[row["key"]] = KeyBacklog(
            key=row["key"],
            project_id=row["project_id"],
            project_uid=row["project_uid"],
            namespace=row["namespace"],
            parts=decode_parts(row["parts"]),
            task=row["task"],
            facts=KeyFacts(
                ready=ready.get(row["key"], 0),
                starting=row["starting"],
                backoff_until=row["backoff_until"],
                standby=row["standby"],
                ahead=row["ahead"],
                waiting=row["waiting"],
                kept=bool(row["kept"]),
            ),
            next_at=min(upcoming, default=None),
            now=row["now"],
        )
    return list(found.values())


async def starting(connection: Connection) -> int:
    """Return how many pods are on their way, over all keys."""
    row = await (await connection.execute(_SQL["starting_pods"])).fetchone()
    assert row is not None, "a count always has a row"
    return int(row["n"])


async def starting_for(database: Database, run_id: UUID) -> int:
    """Return how many pods are on their way that could take a queued run."""
    return int((await database.fetch(_SQL["starting_for_run"], {"run_id": run_id}))[0]["n"])


async def plan(connection: Connection, pod_id: UUID, project_id: int, plan: PodPlan) -> None:
    """Write the row of a pod that is to be created. A repeat writes nothing."""
    parameters = {
        "id": pod_id,
        "project_id": project_id,
        "pod_key": plan.pod_key,
        "name": plan.name,
        "namespace": plan.namespace,
        "ahead": plan.ahead,
    }
    await connection.execute(_SQL["plan_pod"], parameters)


async def planned(database: Database, age: timedelta) -> list[dict[str, Any]]:
    """Return rows older than ``age`` whose POST may not have happened."""
    return await database.fetch(_SQL["planned_pods"], {"age": age})


async def created(database: Database, pod_id: UUID, uid: str) -> bool:
    """Record the UID of a created pod. False: the row belongs to another pod of that name."""
    return bool(await database.fetch(_SQL["pod_created"], {"id": pod_id, "uid": uid}))


async def by_uid(database: Database, uid: str) -> PodRow | None:
    """Return the pod with this UID."""
    return _one(await database.fetch(_SQL["pod_by_uid"], {"uid": uid}))


async def by_name(database: Database, project_uid: str, name: str) -> PodRow | None:
    """Return the pod with this name, whose UID may not be recorded yet."""
    return _one(await database.fetch(_SQL["pod_by_name"], {"project_uid": project_uid, "name": name}))


async def end(
    connection: Connection,
    pod_id: UUID,
    *,
    reason: str | None,
    message: str | None,
    node: str | None,
    last_state: str | None,
    keep: timedelta,
) -> dict[str, Any] | None:
    """Record that a pod has ended and when it is to be deleted; None if that is known already."""
    parameters = {
        "id": pod_id,
        "reason": reason,
        "message": message,
        "node": node,
        "last_state": last_state,
        "keep": keep,
    }
    return await (await connection.execute(_SQL["pod_ended"], parameters)).fetchone()


async def gone(database: Database, pod_id: UUID) -> None:
    """Record that the pod object no longer exists."""
    await database.fetch(_SQL["pod_gone"], {"id": pod_id})


async def to_delete(database: Database) -> list[dict[str, Any]]:
    """Return ended pods whose time to be looked at is over."""
    return await database.fetch(_SQL["pods_to_delete"])


async def drain_idle_starting(database: Database, age: timedelta) -> None:
    """Let pods on their way, for which nothing waits any more, take nothing and be deleted."""
    await database.fetch(_SQL["drain_idle_starting"], {"age": age})


async def drain_standby(connection: Connection, pod_key: str, count: int) -> list[dict[str, Any]]:
    """Let up to ``count`` standby pods of a key take nothing from now on, and return them: they are to be deleted."""
    parameters = {"pod_key": pod_key, "n": count}
    return await (await connection.execute(_SQL["drain_standby"], parameters)).fetchall()


async def recovered(database: Database, proof: timedelta) -> None:
    """Take back the backoff of keys whose standby pods have waited for at least ``proof``."""
    await database.fetch(_SQL["keys_recovered"], {"proof": proof})


async def believed_alive(database: Database, age: timedelta) -> list[dict[str, Any]]:
    """Return pods that the ledger believes to exist, older than ``age``."""
    return await database.fetch(_SQL["pods_believed_alive"], {"age": age})


async def key_failures(connection: Connection, key: str) -> int:
    """Return how many pods of the key ended in a row without claiming."""
    row = await (await connection.execute(_SQL["failures_of_key"], {"key": key})).fetchone()
    return 0 if row is None else int(row["failures"])


async def key_failed(connection: Connection, key: str, *, backoff: timedelta, reason: str, message: str) -> None:
    """Record that a pod of the key ended without claiming, and hold the key's next pod back."""
    parameters = {"key": key, "backoff": backoff, "reason": reason, "message": message}
    await connection.execute(_SQL["pod_key_failed"], parameters)


async def key_problem(connection: Connection, key: str, reason: str | None, message: str | None) -> bool:
    """Record why the key's pods do not start (None: they do). Returns whether that is news."""
    parameters = {"key": key, "reason": reason, "message": message}
    return await (await connection.execute(_SQL["pod_key_problem"], parameters)).fetchone() is not None


async def queued_runs(connection: Connection, key: str) -> list[UUID]:
    """Return runs of the key that could start now."""
    rows = await (await connection.execute(_SQL["queued_runs_of_key"], {"key": key})).fetchall()
    return [row["run_id"] for row in rows]


def decode_parts(text: str) -> PodParts:
    """Return what ``pod_key.parts`` keeps."""
    return msgspec.json.decode(text, type=PodParts)


def _one(rows: list[dict[str, Any]]) -> PodRow | None:
    if not rows:
        return None
    row = rows[0]
    return PodRow(
        id=row["id"],
        project_id=row["project_id"],
        pod_key=row["pod_key"],
        name=row["name"],
        namespace=row["namespace"],
        uid=row["uid"],
        state=row["state"],
        claim_id=row["claim_id"],
        ended=row["ended_at"] is not None,
        reason=row["reason"],
        ahead=row["ahead"],
        draining=row["draining"],
        protection=row["protection"],
    )
