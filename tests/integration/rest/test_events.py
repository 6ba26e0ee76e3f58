"""Sending events over REST."""

import json
from typing import Any

import pytest

from tests.ledger.test_events import a_wait
from tests.support.rest import ROOT, Answer, Rest
from windlass import protocol


async def send(rest: Rest, body: Any, **more: Any) -> Answer:
    return await rest.call("POST", f"{ROOT}/events", data=json.dumps(body).encode(), **more)


async def test_an_event_is_accepted_and_the_answer_says_whom_it_reached(rest: Rest) -> None:
    await rest.trigger({})
    [attempt] = await rest.world.claim()
    await rest.world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_wait(match={"orderId": 7})]))
    assert (await send(rest, {"name": "paid", "payload": {"orderId": 8}, "id": "a"})).json == {"id": "a", "runs": 0}
    answer = await send(rest, {"name": "paid", "payload": {"orderId": 7}, "id": "b"})
    assert (answer.status, answer.json) == (201, {"id": "b", "runs": 1})
    again = await send(rest, {"name": "paid", "payload": None, "id": "b"})
    assert (again.status, again.json) == (200, {"id": "b", "runs": 1, "deduplicated": True})
    assert (await send(rest, {"name": "other", "id": "b"})).error[:2] == (409, "EventIdInUse")


async def test_an_event_without_an_id_gets_one(rest: Rest) -> None:
    first, second = [(await send(rest, {"name": "paid"})).json for _ in range(2)]
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": "a\nb"}, 400, "name"),
        ({"name": "a" * 201}, 400, "name"),
        ({"name": 7}, 400, "name"),
        ({"name": "paid", "id": ""}, 400, "id"),
        ({"name": "paid", "match": 1}, 400, "match"),
        ([], 400, "body"),
        ({"name": "paid", "payload": "x" * 65_536}, 413, "payload"),
    ],
)
async def test_what_is_no_event_is_refused_with_the_field(rest: Rest, body: Any, status: int, field: str) -> None:
    answer = await send(rest, body)
    assert (answer.status, answer.json["field"]) == (status, field), answer.text


async def test_a_payload_is_kept_as_json_that_every_reader_accepts(rest: Rest) -> None:
    refused = await rest.call("POST", f"{ROOT}/events", data=b'{"name": "paid", "payload": {"a": 1, "a": 2}}')
    assert refused.error[:2] == (422, "PayloadInvalid")
    assert (await send(rest, {"name": "paid", "payload": {"nul": "\0"}})).status == 201
    assert (await send(rest, {"name": "paid"}, headers={"Content-Type": "text/plain"})).status == 415
