"""Which resources must be written or removed, and who may do it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.task_snapshot import DEFAULT_TTL
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("projection")


class LeadershipLostError(WindlassError):
    """Another operator leads now; this one must end."""

    code = "LeadershipLost"


async def due(database: Database, limit: int) -> list[tuple[UUID, int]]:
    """Return runs whose resource is behind, oldest change first, with the revision that asked for it."""
    return [(row["run_id"], row["revision"]) for row in await database.fetch(_SQL["due"], {"limit": limit})]


async def done(database: Database, shown: Mapping[UUID, int]) -> list[float]:
    """Record which revisions resources show, by run. A change since then stays due.

    Returns:
        For each resource that is up to date now, the seconds for which it was behind.
    """
    rows = await database.fetch(_SQL["projected"], {"run_ids": list(shown), "revisions": list(shown.values())})
    return [max(0.0, row["waited"]) for row in rows]


async def again(database: Database, run_id: UUID) -> None:
    """Ask for the resources of a run to be written although nothing has changed: they show something else."""

    async def work(connection: Connection) -> None:
        await runs.want_projection(connection, [run_id])

    await database.transaction(work)


async def expired_resources(database: Database) -> list[dict[str, Any]]:
    """Return finished runs whose resource has outlived its ``ttlAfterFinished``."""
    return await database.fetch(_SQL["expired_resources"], {"default_ttl": DEFAULT_TTL.total_seconds()})


async def release_resource(database: Database, run_id: UUID, resource_uid: str) -> None:
    """Record that the run has no resource any more; name and hash stay, to bind one that is re-created."""
    await database.fetch(_SQL["release_resource"], {"run_id": run_id, "resource_uid": resource_uid})


async def forget_resource(connection: Connection, run_id: UUID, resource_uid: str) -> None:
    """Record that a person removed the resource of a finished run: one created again asks for another run."""
    await connection.execute(_SQL["forget_resource"], {"run_id": run_id, "resource_uid": resource_uid})


async def forget_twin(database: Database, run_id: UUID) -> None:
    """Record the same of a run whose released resource turned out to be gone already."""
    await database.fetch(_SQL["forget_twin"], {"run_id": run_id})


async def unfinished_resources(database: Database, age: timedelta) -> list[dict[str, Any]]:
    """Return unfinished runs that have a resource, older than ``age``."""
    return await database.fetch(_SQL["unfinished_resources"], {"age": age})


async def take_epoch(database: Database, holder: str) -> int:
    """Become the leader in the ledger's eyes and return the epoch that fences the predecessor's writes."""
    return int((await database.fetch(_SQL["take_epoch"], {"holder": holder}))[0]["epoch"])


async def check_epoch(connection: Connection, epoch: int) -> None:
    """Require that this epoch is the current one until the transaction ends.

    Raises:
        LeadershipLostError: Another operator has taken over.
    """
    if await (await connection.execute(_SQL["check_epoch"], {"epoch": epoch})).fetchone() is None:
        raise LeadershipLostError("Another operator has taken the lead; this process ends.")
