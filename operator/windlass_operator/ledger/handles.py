"""Idempotency keys, and the further resources that show a run because they asked for it again by its key."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("handles")

KEEP_KEYS: Final = timedelta(days=30)
"""For how long a key stands for its run, counted from the run's acceptance."""


Key = tuple[str, str]
"""A task and an idempotency key."""


async def take_keys(connection: Connection, project_id: int, wanted: Mapping[Key, UUID]) -> dict[Key, UUID]:
    """Take idempotency keys for runs that this transaction inserts.

    Waits for transactions that take the same keys.

    Returns:
        The run that has the key, for each that is not ours now.
    """
    if not wanted:
        return {}
    tasks, keys = [task for task, _ in wanted], [key for _, key in wanted]
    parameters = {"project_id": project_id, "tasks": tasks, "keys": keys, "run_ids": list(wanted.values())}
    taken = await (await connection.execute(_SQL["take_keys"], {**parameters, "keep": KEEP_KEYS})).fetchall()
    ours = {(row["task"], row["key"]) for row in taken}
    if len(ours) == len(wanted):
        return {}
    rows = await (await connection.execute(_SQL["holders"], parameters)).fetchall()
    holders = {(row["task"], row["key"]): UUID(str(row["run_id"])) for row in rows}
    assert holders.keys() == wanted.keys(), "keys in use are not deleted, and the conflict locked their rows"
    return {key: holder for key, holder in holders.items() if key not in ours}


async def forget_keys(database: Database) -> None:
    """Delete keys whose time is over, a batch of them."""
    await database.fetch(_SQL["forget_keys"])


async def attach(connection: Connection, run_id: UUID, *, resource_uid: str, name: str, spec_hash: str) -> None:
    """Make a resource a handle on a run."""
    parameters = {"run_id": run_id, "resource_uid": resource_uid, "name": name, "spec_hash": spec_hash}
    row = await (await connection.execute(_SQL["attach"], parameters)).fetchone()
    assert row is not None, "runs that a key stands for exist"
    message = f"Run resource {name!r} asked for it again by its idempotency key, and shows it too."
    await runs.add_event(connection, run_id, row["revision"], "Deduplicated", message=message)
    await runs.want_projection(connection, [run_id])


async def detach(connection: Connection, resource_uid: str) -> bool:
    """Forget a handle whose resource is gone; False if it was none."""
    return await (await connection.execute(_SQL["detach"], {"resource_uid": resource_uid})).fetchone() is not None


async def inherit(connection: Connection, run_id: UUID, resource_uid: str) -> bool:
    """Put the oldest handle in the place of the run's resource, which is gone; False if there is none."""
    parameters = {"run_id": run_id, "resource_uid": resource_uid}
    row = await (await connection.execute(_SQL["inherit"], parameters)).fetchone()
    if row is None:
        return False
    message = f"Its Run resource was deleted; {row['name']!r}, which has the same idempotency key, keeps the run."
    await runs.add_event(connection, run_id, row["revision"], "HandedOver", message=message)
    await runs.want_projection(connection, [run_id])
    return True


async def of_runs(database: Database, run_ids: list[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """Return the handles of runs: resource_uid, name, generation, changed."""
    found: dict[UUID, list[dict[str, Any]]] = {}
    for row in await database.fetch(_SQL["handles_of"], {"run_ids": run_ids}):
        found.setdefault(row["run_id"], []).append(row)
    return found
