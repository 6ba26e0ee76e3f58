"""The runners' routes and what no runner of ours sends: told what is wrong with it, never an error of the server."""

import json
from typing import Any

import pytest

from tests.support.rest import Rest
from windlass import protocol

MIB = 1024 * 1024
POSTS = ("claim", "withdraw", "heartbeat", "steps", "complete", "fail", "release", "ends", "logs")


@pytest.fixture
async def token(rest: Rest) -> str:
    """The token of an open attempt."""
    await rest.trigger({"payload": 1})
    [attempt] = await rest.world.claim()
    return attempt.token


async def post(rest: Rest, route: str, token: str | None, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await rest.call("POST", f"/runtime/v1/{route}", token=token, data=data)


NO_JSON = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"lines": "\xff"}',
    "a list": b"[]",
    "a number": b"1e400",
    "null": b"null",
    "deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep where it matters": b'{"result":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b', "steps": 1, "failure": 1, "beats": 1,'
    b' "lines": 1, "claimId": 1, "reason": 1}',
    "form": b"a=1",
}


@pytest.mark.parametrize("route", POSTS)
async def test_a_body_that_is_no_message_is_400(rest: Rest, token: str, route: str) -> None:
    for name, body in NO_JSON.items():
        answer = await post(rest, route, token, body)
        assert answer.status == 400, (name, answer.text)
        assert answer.json["code"] == "InvalidRequest"
        assert answer.json["message"].startswith("The body is not a "), (name, answer.text)


@pytest.mark.parametrize("route", POSTS)
async def test_a_body_over_the_cap_is_413_before_it_is_parsed(rest: Rest, token: str, route: str) -> None:
    answer = await post(rest, route, token, b"[" * (8 * MIB + 1))
    assert answer.error == (413, "PayloadTooLarge", f"The body has {8 * MIB + 1} bytes; the limit is {8 * MIB}.")


async def test_a_blob_over_the_cap_is_413(rest: Rest, token: str) -> None:
    data = b"x" * (8 * MIB + 1)
    answer = await rest.call("PUT", f"/runtime/v1/blobs/{'0' * 64}", token=token, data=data)
    assert answer.error[:2] == (413, "PayloadTooLarge")


A_STEP: dict[str, Any] = {"key": "a", "name": "a", "argsHash": "h", "state": "succeeded", "result": 1}
A_LINE: dict[str, Any] = {"seq": 1, "stream": "stdout", "text": "x"}
A_FAILURE: dict[str, Any] = {"type": "ValueError", "message": "m"}
NUL, HUGE = "a\0b", 10**30
VALUES: tuple[Any, ...] = (None, True, -1, 0, HUGE, -HUGE, 1.5, 1e308, -1e308, "", NUL, "x" * 100_000, [], {}, [[]])


def _variants(message: dict[str, Any], fields: set[str]) -> list[dict[str, Any]]:
    return [{**message, field: value} for field in sorted(fields) for value in VALUES]


def _fields(kind: type[protocol.Message]) -> set[str]:
    return set(kind.__struct_encode_fields__)


MESSAGES: dict[str, list[dict[str, Any]]] = {
    "steps": [{"steps": [step]} for step in _variants(A_STEP, _fields(protocol.Step))]
    + [{"steps": [{**A_STEP, "error": e, "state": "failed"}]} for e in _variants(A_FAILURE, _fields(protocol.Failure))]
    + [
        {"steps": [{**A_STEP, "resultRef": {"sha256": s, "size": n}}]}
        for s in ("", NUL, "0" * 64)
        for n in (-1, 1, HUGE)
    ],
    "logs": [{"lines": [line]} for line in _variants(A_LINE, _fields(protocol.LogLine))],
    "heartbeat": [{"beats": [{"token": "?", "memoryBytes": 1}]}],
    "claim": _variants({"claimId": "c", "podName": "p", "podUid": "u", "waitMs": 0}, _fields(protocol.ClaimRequest)),
    "release": [],
}


@pytest.mark.parametrize("route", ["steps", "logs", "claim"])
async def test_a_message_with_any_odd_value_is_taken_or_refused_but_never_an_error_of_ours(
    rest: Rest, token: str, route: str
) -> None:
    failed = []
    for message in MESSAGES[route]:
        if message.get("waitMs") in (HUGE, 1e308) or (route == "claim" and message["waitMs"] != 0):
            continue  # a long poll
        answer = await post(rest, route, token, message)
        if answer.status >= 500 or (answer.status >= 400 and not answer.error[2]):
            failed.append((str(message)[:150], answer.text))
    assert failed == []


@pytest.mark.parametrize("value", VALUES, ids=lambda v: str(v)[:12])
async def test_an_attempt_ends_or_stays_open_whatever_its_last_message_has_in_it(
    rest: Rest, token: str, value: Any
) -> None:
    beat = await post(rest, "heartbeat", None, {"beats": [{"token": token, "memoryBytes": value}]})
    assert beat.status in (200, 400), beat.text
    for field in _fields(protocol.Failure):
        bad = await post(rest, "fail", token, {"failure": {**A_FAILURE, field: value}, "retryAfterMs": value})
        assert bad.status in (200, 400, 409, 413, 422), (field, bad.text)
    for message in ({"failure": A_FAILURE, "retryAfterMs": value}, {"failure": A_FAILURE, "timedOut": value}):
        bad = await post(rest, "fail", token, message)
        assert bad.status in (200, 400, 409, 413, 422), bad.text
    released = await post(rest, "release", token, {"reason": value})
    assert released.status in (200, 400, 409, 413, 422), released.text
    for row in (await rest.get("/runs")).json["items"]:
        assert (await rest.get(f"/runs/{row['id']}")).status == 200
        for part in ("steps", "events", "logs"):
            assert (await rest.get(f"/runs/{row['id']}/{part}")).status == 200


RESULTS = {
    "NaN": (b"NaN", 400),
    "1e400": (b"1e400", 422),
    "digits": (b"7" * 5000, 422),
    "deep": (b"[" * 900 + b"]" * 900, 422),
    "surrogate": (b'"\\ud800"', 400),
    "twice": (b'{"a": 1, "a": 2}', 422),
    "no UTF-8": (b'"\xff"', 400),
    "large": (b'"' + b"x" * 70_000 + b'"', 413),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_a_result_that_others_could_not_read_is_refused_and_the_attempt_stays_open(
    rest: Rest, token: str, name: str
) -> None:
    result, status = RESULTS[name]
    answer = await post(rest, "complete", token, b'{"result": ' + result + b"}")
    assert answer.status == status, answer.text
    assert answer.json["message"]
    step = b'{"steps": [{"key": "a", "name": "a", "argsHash": "h", "state": "succeeded", "result": ' + result + b"}]}"
    saved = await post(rest, "steps", token, step)
    assert saved.status == status, saved.text
    [run] = (await rest.get("/runs")).json["items"]
    assert run["state"] == "Running"
    assert (await post(rest, "complete", token, {"result": {"text": NUL}})).status == 200
    assert (await rest.get(f"/runs/{run['id']}/result")).json == {"text": NUL}
    await rest.world.projection.project_due()
