"""Claims: which pod asks for work, what it holds, and the attempts that are opened for it.

Locks: the pods in order of their ids first, then attempts whose tokens are renewed, then queues, then runs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.ledger import queues
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("claims")


@dataclass(frozen=True, slots=True)
class LockedPod:
    """A pod that asks for work. Its row is locked until the transaction ends."""

    id: UUID
    uid: str
    name: str
    pod_key: str
    claim_id: str | None
    """The claim that its credential serves."""
    state: str
    ahead: bool
    """It was started before a run needed it."""
    reuse: bool
    slots: int
    draining: bool
    session_hash: bytes | None
    idle: bool
    """It is known to hold nothing."""
    credential_hash: bytes | None
    """Of its namespace."""

    @property
    def leaves(self) -> bool:
        """Whether it gets nothing any more."""
        return self.draining or self.state == "Ended"


@dataclass(frozen=True, slots=True)
class Place:
    """An attempt that is opened if there is a run for it."""

    id: UUID
    token_hash: bytes
    pod_id: UUID
    claim_id: str


@dataclass(frozen=True, slots=True)
class Locked:
    """What decides on claims for runs of a key."""

    pods: dict[UUID, LockedPod]
    held: list[dict[str, Any]]
    """See :func:`attempts_of_pods`."""
    queues: list[dict[str, Any]]
    """In which runs of the key wait, not locked. See :func:`queues.of_key`."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is for those who wait for the runs of a key."""

    due_in: float | None
    """Seconds until one may start as far as its own time goes, negative: since when it might. None: there is none."""
    news: Sequence[int]
    """Positions of the claims of which more is to be looked at."""


async def find_pod(database: Database, pod_uid: str, pod_name: str) -> tuple[UUID, str] | None:
    """Return the id and the key of a pod, or None if the ledger does not know its UID (yet)."""
    rows = await database.fetch(_SQL["find_pod"], {"pod_uid": pod_uid, "pod_name": pod_name})
    return (rows[0]["id"], rows[0]["pod_key"]) if rows else None


async def lock_pods(connection: Connection, ids: Collection[UUID]) -> dict[UUID, LockedPod]:
    """Lock the pods that ask for work and return them by their ids."""
    rows = await (await connection.execute(_SQL["lock_pods"], {"ids": list(ids)})).fetchall()
    return {row["id"]: _pod(row) for row in rows}


async def lock_all(connection: Connection, pod_key: str, claims: Sequence[tuple[UUID, str]], n: int) -> Locked:
    """Lock the pods that ask for runs of a key, and return what decides on their claims.

    Args:
        connection: The transaction.
        pod_key: Of the pods.
        claims: A pod and a claim id each.
        n: Runs that they ask for.
    """
    pods = await lock_pods(connection, {pod_id for pod_id, _ in claims})
    held = await attempts_of_pods(connection, claims)  # a statement of its own: it sees what the locks waited for
    return Locked(pods, held, await queues.of_key(connection, pod_key, n))


def _pod(row: dict[str, Any]) -> LockedPod:
    return LockedPod(
        id=row["id"],
        uid=row["uid"],
        name=row["name"],
        pod_key=row["pod_key"],
        claim_id=row["claim_id"],
        state=row["state"],
        ahead=row["ahead"],
        reuse=row["reuse"],
        slots=row["slots"],
        draining=row["draining"],
        session_hash=None if row["session_hash"] is None else bytes(row["session_hash"]),
        idle=row["idle_since"] is not None,
        credential_hash=None if row["credential_hash"] is None else bytes(row["credential_hash"]),
    )


async def attempts_of_pods(connection: Connection, claims: Sequence[tuple[UUID, str]]) -> list[dict[str, Any]]:
    """Return what locked pods hold, and what these claims of theirs took that has ended since, in lock order.

    Args:
        connection: The transaction.
        claims: A pod and a claim id each.

    Returns:
        ``pod_id``, ``id``, ``claim_id`` and ``open`` of each attempt.
    """
    parameters = {
        "ids": list({pod_id for pod_id, _ in claims}),
        "pods": [pod_id for pod_id, _ in claims],
        "claims": [claim_id for _, claim_id in claims],
    }
    return await (await connection.execute(_SQL["attempts_of_pods"], parameters)).fetchall()


async def note_claims(connection: Connection, noted: Sequence[tuple[UUID, str, bytes | None]]) -> None:
    """Record which claim the credential of a locked pod serves, and the hash of the session it gets, if it gets one."""
    ids, claims, sessions = ([one[part] for one in noted] for part in range(3))
    await connection.execute(_SQL["note_claims"], {"ids": ids, "claims": claims, "sessions": sessions})


async def withdraw_pod(connection: Connection, pod_id: UUID, claim_id: str) -> None:
    """Record that the pod claims nothing any more."""
    await connection.execute(_SQL["withdraw_pod"], {"id": pod_id, "claim_id": claim_id})


async def renew_tokens(connection: Connection, tokens: Sequence[tuple[UUID, bytes]], lease: timedelta) -> set[UUID]:
    """Give open attempts other tokens, for claims whose answers were lost. Returns those that are open still."""
    parameters = {"ids": [i for i, _ in tokens], "token_hashes": [hashed for _, hashed in tokens], "lease": lease}
    rows = await (await connection.execute(_SQL["renew_tokens"], parameters)).fetchall()
    return {row["id"] for row in rows}


async def take(
    connection: Connection, pod_key: str, free: Mapping[int, int], places: Sequence[Place], lease: timedelta
) -> list[dict[str, Any]]:
    """Open attempts for runs of a pod key that may start, in the order of ``places``.

    Args:
        connection: The transaction.
        pod_key: Of the pods.
        free: Among how many runs of which queue may be chosen; of a queue with a limit, all of them may be taken.
        places: Where attempts can be opened.
        lease: Of the new attempts.

    Returns:
        What runners need of the attempts that were opened, as :func:`claimed` does.
    """
    parameters = {
        "pod_key": pod_key,
        "n": len(places),
        "queue_ids": list(free),
        "free": list(free.values()),
        "ids": [place.id for place in places],
        "token_hashes": [place.token_hash for place in places],
        "pods": [place.pod_id for place in places],
        "claims": [place.claim_id for place in places],
        "lease": lease,
    }
    return await (await connection.execute(_SQL["claim_runs"], parameters)).fetchall()


async def pods_claimed(connection: Connection, ids: Collection[UUID]) -> None:
    """Record that locked pods have taken something: their key's pods start, and they are not idle."""
    await connection.execute(_SQL["pods_claimed"], {"ids": list(ids)})


async def pods_idle(connection: Connection, ids: Collection[UUID]) -> None:
    """Record that locked pods hold nothing, if that is news."""
    await connection.execute(_SQL["pods_idle"], {"ids": list(ids)})


async def claimed(connection: Connection, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Return what runners need of their attempts, in the order of their ids."""
    return await (await connection.execute(_SQL["claimed_attempts"], {"ids": list(ids)})).fetchall()


async def look(database: Database, pod_key: str, claims: Sequence[tuple[UUID, str]]) -> Outlook:
    """Return what there is for claims that wait for the runs of a key. Locks nothing."""
    parameters = {"pod_key": pod_key, "pods": [pod for pod, _ in claims], "claims": [claim for _, claim in claims]}
    (row,) = await database.fetch(_SQL["look"], parameters)
    return Outlook(row["due_in"], [n - 1 for n in row["news"]])
