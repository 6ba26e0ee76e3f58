"""Queues over REST: how full they are, when runs start, and everything that a run waits for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.rest import Rest
from tests.support.world import SHOP, a_task


async def test_queues_are_listed_with_limits_and_fullness(rest: Rest) -> None:
    rest.world.cluster.tasks[SHOP.namespace, "refund"] = a_task(queue="payments")
    await rest.world.put_queue("payments", concurrency=2, maxLength=9)
    await rest.trigger({})
    await rest.trigger({}, task="refund")
    await rest.trigger({"delay": "1h"}, task="refund")

    answer = (await rest.get("/queues")).json

    assert [queue["name"] for queue in answer["items"]] == ["order", "payments"]
    own, shared = answer["items"]
    assert (own["concurrency"], own["queued"]) == (None, 1)
    assert (shared["concurrency"], shared["maxLength"], shared["queued"], shared["delayed"]) == (2, 9, 1, 1)
    first = (await rest.get("/queues?limit=1")).json
    assert [queue["name"] for queue in first["items"]] == ["order"]
    second = (await rest.get(f"/queues?after={first['nextCursor']}")).json
    assert ([queue["name"] for queue in second["items"]], second["nextCursor"]) == (["payments"], None)


async def test_a_run_that_does_not_start_says_everything_that_it_waits_for(rest: Rest) -> None:
    await rest.world.put_queue(paused=True)
    first = (await rest.trigger({})).json["id"]
    run = (await rest.trigger({"delay": "1h"})).json

    found = (await rest.get(f"/runs/{run['id']}/explain")).json

    assert run["reason"] == "Paused"
    assert [gate["reason"] for gate in found["waitsFor"]] == ["Paused", "Delayed"]
    assert (found["queue"], found["ahead"]) == ("order", 1)
    assert (await rest.get(f"/runs/{first}/explain")).json["ahead"] == 0


async def test_a_run_that_nothing_holds_waits_for_a_pod(rest: Rest) -> None:
    run = (await rest.trigger({})).json["id"]

    (gate,) = (await rest.get(f"/runs/{run}/explain")).json["waitsFor"]
    assert (gate["reason"], "0 on their way" in gate["message"]) == ("PodPending", True)

    await rest.world.claim()
    assert (await rest.get(f"/runs/{run}/explain")).json["waitsFor"] == []


async def test_a_start_in_the_future_is_shown(rest: Rest) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)

    run = (await rest.trigger({"startAt": at.isoformat()})).json

    assert (run["state"], run["reason"]) == ("Queued", "Delayed")
    assert datetime.fromisoformat(run["nextAttemptAt"]) == at


@pytest.mark.parametrize(
    "at",
    ["0479-05-17T17:52:30+16:33", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9000-01-01T00:00:00Z"],
)
async def test_a_start_in_another_age_leaves_a_run_that_can_be_read(rest: Rest, at: str) -> None:
    run = await rest.trigger({"startAt": at, "queueTTL": "999d"})

    assert run.status in (201, 400)
    if run.status == 201:
        assert (await rest.get(f"/runs/{run.json['id']}")).json["state"] == "Queued"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"delay": "soon"}, "delay"),
        ({"startAt": "tomorrow"}, "startAt"),
        ({"queueTTL": -1}, "queueTTL"),
    ],
)
async def test_a_time_that_cannot_be_read_is_refused_with_its_field(
    rest: Rest, body: dict[str, Any], field: str
) -> None:
    answer = await rest.trigger(body)

    assert answer.status in (400, 422)
    assert field in (answer.json["field"] or "") + answer.json["message"]


async def test_a_full_queue_is_answered_429_with_a_time_to_come_back(rest: Rest) -> None:
    await rest.world.put_queue(maxLength=1)
    await rest.trigger({})

    answer = await rest.trigger({})

    assert (answer.status, answer.json["code"]) == (429, "QueueFull")
    assert int(answer.headers["Retry-After"]) > 0
