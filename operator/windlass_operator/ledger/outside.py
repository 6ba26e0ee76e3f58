"""What the ledger believes of pods, Run resources and stored objects: read only, page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.invariants import FIRST, LAST, only_look, rows_of
from windlass_operator.ledger.queries import load

_SQL: Final = load("outside")


@dataclass(frozen=True, slots=True)
class Believed:
    """A pod that must be there, or a resource."""

    uid: str | None
    name: str
    namespace: str
    run_id: UUID | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the ledger knows of a pod that is there."""

    known: bool
    over_since: datetime | None
    """Since when it should not be there any more."""
    left_over: bool
    """Whether that is long ago."""


@dataclass(frozen=True, slots=True)
class ResourceFacts:
    """What the ledger knows of a Run resource that is there."""

    run_id: UUID | None
    """The run that is bound to its UID."""
    state: str | None
    due: bool
    """Whether its status is to be written."""
    named_is_known: bool
    """Whether the ledger has the run that its status names."""
    is_old: bool


@dataclass(frozen=True, slots=True)
class Value:
    """A large value that is recorded."""

    project_uid: str
    namespace: str
    run_id: UUID
    sha256: str
    in_ledger: bool
    """Whether its bytes are in the row."""


NO_VALUE: Final = Value("", "", FIRST, "", in_ledger=False)
"""Before every value."""


async def open_attempts(database: Database, *, after: UUID, size: int, settled: timedelta) -> list[Believed]:
    """Return a page of open attempts that are older than ``settled``, with their pods."""
    rows = await _look(database, "open_attempts", {"after": after, "size": size, "settled": settled}, size)
    return [Believed(row["uid"], row["name"], row["namespace"], row["run_id"], row["number"]) for row in rows]


async def alive_pods(database: Database, *, settled: timedelta) -> list[Believed]:
    """Return the pods whose object must be there: not more than the cluster has."""
    rows = await _look(database, "alive_pods", {"settled": settled}, 0)
    return [Believed(row["uid"], row["name"], row["namespace"]) for row in rows]


async def pods_seen(
    database: Database, pods: Sequence[tuple[str, str, str]], *, late: timedelta
) -> dict[str, PodFacts]:
    """Return what the ledger knows of pods that were seen, by UID.

    Args:
        database: The ledger.
        pods: UID, namespace and name of each.
        late: After what time one that should have gone is left over.
    """
    columns = {key: [pod[i] for pod in pods] for i, key in enumerate(("uids", "namespaces", "names"))}
    rows = await _look(database, "pods_seen", {**columns, "late": late}, len(pods))
    return {row["uid"]: PodFacts(row["known"], row["since"], bool(row["left_over"])) for row in rows}


async def resources_seen(
    database: Database, resources: Sequence[tuple[str, UUID | None, datetime | None]], *, late: timedelta
) -> dict[str, ResourceFacts]:
    """Return what the ledger knows of Run resources that were seen, by UID.

    Args:
        database: The ledger.
        resources: UID of each, the run that its status names, and when it was created.
        late: After what time one must have been imported.
    """
    columns = {key: [resource[i] for resource in resources] for i, key in enumerate(("uids", "named", "created"))}
    rows = await _look(database, "resources_seen", {**columns, "late": late}, len(resources))
    return {
        row["uid"]: ResourceFacts(row["run_id"], row["state"], row["due"], row["named_is_known"], bool(row["is_old"]))
        for row in rows
    }


async def unfinished_resources(
    database: Database, *, after: UUID, size: int, settled: timedelta
) -> tuple[UUID, list[Believed]]:
    """Return where a page of runs ends, and the Run resources of its unfinished runs that are older than ``settled``.

    It ends at :data:`LAST` where no page follows.
    """

    async def work(connection: Connection) -> tuple[UUID, list[Believed]]:
        await only_look(connection)
        ended = await rows_of(connection, _SQL, "page_end", {"after": after, "size": size}, size)
        until = UUID(str(ended[0]["id"])) if ended else LAST
        place = {"after": after, "until": until, "settled": settled}
        rows = await rows_of(connection, _SQL, "unfinished_resources", place, size)
        return until, [Believed(row["uid"], row["name"], row["namespace"], row["run_id"]) for row in rows]

    return await database.transaction(work)


async def values(database: Database, *, after: Value, size: int) -> list[Value]:
    """Return a page of values, in order of runs and digests."""
    place = {"after": after.run_id, "after_sha256": after.sha256, "size": size}
    return [Value(**row) for row in await _look(database, "values", place, size)]


async def some_are_elsewhere(database: Database) -> bool:
    """Return whether the bytes of some values are not in the ledger."""
    return bool((await _look(database, "values_elsewhere", {}, 0))[0]["some"])


async def _look(database: Database, name: str, parameters: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    async def work(connection: Connection) -> list[dict[str, Any]]:
        await only_look(connection)
        return await rows_of(connection, _SQL, name, parameters, size)

    return await database.transaction(work)
