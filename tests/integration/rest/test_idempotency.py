"""A request with an idempotency key may be repeated: there is one run, and the answer says that it was there."""

import asyncio

from tests.support.rest import Rest


async def test_a_repeated_request_is_answered_with_the_first_run(rest: Rest) -> None:
    first = await rest.trigger({"payload": 1, "idempotencyKey": "order-7"})
    again = await rest.trigger({"payload": 2, "idempotencyKey": "order-7"})
    assert (first.status, again.status) == (201, 200)
    assert "deduplicated" not in first.json
    assert again.json["deduplicated"] is True
    assert again.json["id"] == first.json["id"]
    assert again.json["idempotencyKey"] == "order-7"
    assert again.headers["Location"] == first.headers["Location"]


async def test_eight_requests_at_once_are_one_run(rest: Rest) -> None:
    answers = await asyncio.gather(*(rest.trigger({"idempotencyKey": "order-7"}) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len({answer.json["id"] for answer in answers}) == 1


async def test_a_key_that_is_none_is_refused_with_its_field(rest: Rest) -> None:
    for key in ("", "x" * 257, "a\nb", 7):
        answer = await rest.trigger({"idempotencyKey": key})
        assert (answer.status, answer.json["code"], answer.json["field"]) == (400, "InvalidRequest", "idempotencyKey")
