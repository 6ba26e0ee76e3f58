"""Many runs in one call: all of them or none, in their order, and fast enough for a thousand."""

import json
from typing import Any

import pytest

from tests.support.rest import ALICE, ROOT, VIEWER, Answer, Rest
from tests.support.world import SHOP, a_task

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


async def _batch(rest: Rest, items: Any, *, task: str = "order", **more: Any) -> Answer:
    data = json.dumps({"items": items}).encode()
    return await rest.call("POST", f"{ROOT}/tasks/{task}/runs:batch", data=data, **more)


async def _count(rest: Rest) -> int:
    rows = await rest.world.database.fetch("SELECT count(*) AS n FROM run")
    return int(rows[0]["n"])


@pytest.fixture(autouse=True)
def _task(rest: Rest) -> None:
    rest.world.cluster.tasks[SHOP.namespace, "order"] = a_task(payload_schema=SCHEMA)


async def test_a_thousand_items_become_a_thousand_runs_in_their_order(rest: Rest) -> None:
    answer = await _batch(rest, [{"payload": {"n": n}, "tags": ["crowd"]} for n in range(1000)])
    assert answer.status == 201, answer.text
    ids = [item["id"] for item in answer.json["items"]]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids), "the queue goes by the id where the time is the same"
    last = (await rest.get(f"/runs/{ids[-1]}")).json
    assert (last["state"], last["payload"], last["tags"]) == ("Queued", {"n": 999}, ["crowd"])
    events = (await rest.get(f"/runs/{ids[500]}/events")).json["items"]
    assert [event["type"] for event in events] == ["Queued"]
    queued = await rest.world.database.fetch("SELECT run_id FROM queue_entry ORDER BY rank, run_id")
    assert [str(row["run_id"]) for row in queued] == ids


@pytest.mark.parametrize(
    ("bad", "status", "code", "field"),
    [
        ({"payload": {"n": "one"}}, 422, "PayloadInvalid", "items[2].payload.n"),
        ({"payload": {"n": 1}, "version": 9}, 404, "TaskNotFound", "items[2].version"),
        ({"payload": {"n": 1}, "tags": "x"}, 400, "InvalidRequest", "items[2].tags"),
        ({"payload": {"n": 1}, "tgas": ["x"]}, 400, "InvalidRequest", "items[2].tgas"),
    ],
)
async def test_one_bad_item_is_named_and_nothing_is_started(
    rest: Rest, bad: Any, status: int, code: str, field: str
) -> None:
    answer = await _batch(rest, [{"payload": {"n": 1}, "idempotencyKey": "a"}, {"payload": {"n": 2}}, bad])
    assert (answer.status, answer.json["code"], answer.json["field"]) == (status, code, field), answer.text
    assert await _count(rest) == 0
    after = await _batch(rest, [{"payload": {"n": 1}, "idempotencyKey": "a"}])
    assert "deduplicated" not in after.json["items"][0], "the key of a refused batch is free"


@pytest.mark.parametrize("items", [[], [{}] * 1001, {}, None])
async def test_a_batch_has_one_to_a_thousand_items(rest: Rest, items: Any) -> None:
    answer = await _batch(rest, items)
    assert (answer.status, answer.json["code"]) == (400, "InvalidRequest")
    assert answer.json["field"] == "items"


async def test_a_batch_for_a_task_that_is_not_there_says_so(rest: Rest) -> None:
    answer = await _batch(rest, [{}], task="nobody")
    assert answer.error[:2] == (404, "TaskNotFound")


async def test_items_with_a_key_that_is_taken_get_the_run_that_has_it(rest: Rest) -> None:
    first = (await rest.trigger({"payload": {"n": 0}, "idempotencyKey": "k"})).json["id"]
    items = [
        {"payload": {"n": 1}, "idempotencyKey": "k"},
        {"payload": {"n": 2}, "idempotencyKey": "twice"},
        {"payload": {"n": 3}, "idempotencyKey": "twice"},
        {"payload": {"n": 4}},
    ]
    made = (await _batch(rest, items)).json["items"]
    assert made[0] == {"id": first, "deduplicated": True}
    assert made[2] == {"id": made[1]["id"], "deduplicated": True}
    assert "deduplicated" not in made[1]
    assert await _count(rest) == 3
    again = (await _batch(rest, items[:3])).json["items"]
    assert [item["id"] for item in again] == [item["id"] for item in made[:3]]


async def test_a_large_payload_in_a_batch_is_kept_whole(rest: Rest) -> None:
    text = "x" * 100_000
    rest.world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    made = (await _batch(rest, [{"payload": text}, {"payload": "small"}])).json["items"]
    assert (await rest.get(f"/runs/{made[0]['id']}/payload")).json == text
    assert (await rest.get(f"/runs/{made[1]['id']}/payload")).json == "small"


async def test_who_may_not_create_runs_may_not_create_many(rest: Rest) -> None:
    assert (await _batch(rest, [{"payload": {"n": 1}}], token=VIEWER)).status == 403
    assert (await _batch(rest, [{"payload": {"n": 1}}], token=ALICE)).status == 201
