"""The tree of a run: what its code has led to, parents before their children."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.rest import Rest
from tests.support.world import SHOP, a_task
from windlass_operator.domain.ids import new_id
from windlass_operator.ledger import intake, runs
from windlass_operator.ledger.database import Connection
from windlass_operator.ledger.intake import Lineage, NewRun
from windlass_operator.ledger.runs import Value


@pytest.fixture
async def ids(rest: Rest) -> list[UUID]:
    """Return a run, its two children and a child of the second."""
    rest.world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    top = UUID((await rest.trigger({})).json["id"])
    a, b, c = (new_id() for _ in range(3))

    async def work(connection: Connection) -> None:
        project_id = await runs.ensure_project(connection, SHOP.uid, SHOP.namespace)
        for run_id, lineage in (
            (a, Lineage(top, top, 1)),
            (b, Lineage(top, top, 1, detached=True)),
            (c, Lineage(b, top, 2)),
        ):
            new = NewRun(id=run_id, task="part", version=None, payload=Value(text="1"), lineage=lineage)
            await intake.insert(connection, project_id, [new])

    await rest.world.database.transaction(work)
    return [top, a, b, c]


async def test_a_tree_has_all_that_a_run_has_led_to(rest: Rest, ids: list[UUID]) -> None:
    top, a, b, c = map(str, ids)
    found = (await rest.get(f"/runs/{top}/tree")).json
    assert [(node["id"], node["parentId"], node["depth"], node["detached"]) for node in found["items"]] == [
        (top, None, 0, False),
        (a, top, 1, False),
        (b, top, 1, True),
        (c, b, 2, False),
    ]
    assert found["truncated"] is False
    below = (await rest.get(f"/runs/{b}/tree")).json
    assert [node["id"] for node in below["items"]] == [b, c]
    some = (await rest.get(f"/runs/{top}/tree?limit=2")).json
    assert ([node["id"] for node in some["items"]], some["truncated"]) == ([top, a], True)


async def test_runs_say_who_has_started_them_and_are_listed_by_it(rest: Rest, ids: list[UUID]) -> None:
    top, a, b, c = map(str, ids)
    run = (await rest.get(f"/runs/{c}")).json
    assert (run["parentId"], run["rootId"]) == (b, top)
    assert "parentId" not in (await rest.get(f"/runs/{top}")).json

    async def listed(query: str) -> set[Any]:
        return {item["id"] for item in (await rest.get(f"/runs?{query}")).json["items"]}

    assert await listed(f"parent={top}") == {a, b}
    assert await listed(f"parent={c}") == set()
    refused = await rest.get("/runs?parent=me")
    assert (refused.status, refused.json["field"]) == (400, "parent")
