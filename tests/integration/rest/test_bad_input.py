"""Bad input through REST and as a Run resource: the assertion is the sentence that a user reads."""

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import structlog.testing

from tests.support.rest import ROOT, Rest
from tests.support.world import SHOP, a_task
from windlass_operator.services import payloads

MIB = 1024 * 1024
ORDER_ID: dict[str, Any] = {
    "type": "object",
    "required": ["orderId"],
    "properties": {"orderId": {"type": "integer"}, "lines": {"items": {"properties": {"sku": {"type": "string"}}}}},
}


class Bad(NamedTuple):
    """A payload that nobody should have to guess about.

    Attributes:
        json: How it is written.
        message: What is said of it, after the name of the field.
        hint: What to do.
        value: What a Run resource has after the API server and Python read it; absent where JSON decoding decides
            (a duplicate key) or refuses it earlier.
    """

    json: str
    message: str
    hint: str
    value: Any = ...


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


STRING = "Pass the number as a string."
BAD = {
    "NaN": Bad("NaN", "not acceptable: NaN is not JSON", "Write null or a string instead."),
    "Infinity": Bad("[-Infinity]", "not acceptable: -Infinity is not JSON", "Write null or a string instead."),
    "1e400": Bad("1e400", "not acceptable: the number 1e400 is too large for a double", STRING),
    "5,000 digits": Bad("7" * 5000, "not acceptable: an integer has more than 300 digits", STRING, 10**4999),
    "301 digits": Bad("-" + "7" * 300, "not acceptable: an integer has more than 300 digits", STRING, -(10**300)),
    "duplicate key": Bad(
        '{"a": {"b": 1, "b": 2}}',
        "not acceptable: the key 'b' stands twice in one object",
        "Readers differ in which one they take.",
    ),
    "lone surrogate": Bad(
        r'["\ud83d"]',
        r"not acceptable: it has a lone surrogate (\ud83d)",
        "Such a character is half of a pair; send the whole character, or the bytes as base64.",
        ["\ud83d"],
    ),
    "lone surrogate in a key": Bad(
        r'{"\udc00": 1}',
        r"not acceptable: it has a lone surrogate (\udc00)",
        "Such a character is half of a pair; send the whole character, or the bytes as base64.",
        {"\udc00": 1},
    ),
    "10,000 levels": Bad(
        "[" * 10_000 + "]" * 10_000,
        "nested deeper than 200 levels",
        "Flatten it, or pass the deep part as a string.",
        _deep(10_000),
    ),
    "201 levels": Bad(
        '{"a":' * 201 + "1" + "}" * 201,
        "nested deeper than 200 levels",
        "Flatten it, or pass the deep part as a string.",
        _deep(201),
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_payload_that_readers_disagree_about_is_refused_in_words(rest: Rest, name: str) -> None:
    bad = BAD[name]
    answer = await rest.trigger(f'{{"payload": {bad.json}}}')
    assert answer.error == (422, "PayloadInvalid", f"body is {bad.message}.")
    assert answer.json["field"] == "body"
    assert answer.json["hint"] == bad.hint
    assert (await rest.get("/runs")).json["items"] == [], "nothing was accepted"


RESOURCES = {name: bad for name, bad in BAD.items() if bad.value is not ...}


@pytest.mark.parametrize("name", RESOURCES)
async def test_a_run_resource_with_such_a_payload_fails_and_says_why(rest: Rest, name: str) -> None:
    world, bad = rest.world, RESOURCES[name]
    body = world.create_run("bad", payload=bad.value)
    await world.imports.observe(body)
    good = world.create_run("good", payload={"orderId": 7})
    await world.imports.resync()
    await world.projection.project_due()
    status = world.cluster.statuses["bad"]
    assert (status["state"], status["reason"]) == ("Failed", "PayloadInvalid")
    assert status["message"] == f"spec.payload is {bad.message}."
    assert world.cluster.statuses["good"]["state"] == "Queued", "the operator keeps serving others"
    assert (await rest.get("/runs/bad")).json["message"] == status["message"]
    assert good["metadata"]["name"] in world.cluster.statuses


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "spec.payload is not JSON: Out of range float values are not JSON compliant"),
        (float("inf"), "spec.payload is not JSON: Out of range float values are not JSON compliant"),
    ],
)
async def test_a_number_that_became_infinite_on_its_way_into_a_run_is_refused(
    rest: Rest, value: float, message: str
) -> None:
    await rest.world.imports.observe(rest.world.create_run(payload={"x": value}))
    await rest.world.projection.project_due()
    status = rest.world.cluster.statuses["order-1"]
    assert (status["state"], status["reason"]) == ("Failed", "PayloadInvalid")
    assert status["message"].startswith(message)


@pytest.mark.parametrize("levels", [199, 200])
async def test_what_is_just_within_the_limits_is_accepted_and_comes_back_unchanged(rest: Rest, levels: int) -> None:
    payload = {"nul": "a\u0000b", "n": -(10**299) + 1, "max": 1.7976931348623157e308, "deep": _deep(levels - 1)}
    run = (await rest.trigger({"payload": payload})).json["id"]
    assert (await rest.get(f"/runs/{run}")).json["payload"] == payload
    assert (await rest.get(f"/runs/{run}/payload")).json == payload
    world = rest.world
    await world.imports.observe(world.create_run("same", payload=payload))
    assert (await rest.get("/runs/same/payload")).json == payload


async def test_an_unknown_task_is_404_at_once(rest: Rest) -> None:
    answer = await rest.trigger({"payload": 1}, task="ordre")
    message = (
        "Task 'ordre' is not in namespace 'shop'. Create it, or pick one from `kubectl get tasks.windlass.dev -n shop`."
    )
    assert answer.error == (404, "TaskNotFound", message)
    assert answer.json["field"] == "task"
    assert (await rest.get("/runs")).json["items"] == []


async def test_an_unknown_version_is_404(rest: Rest) -> None:
    answer = await rest.trigger({"version": 9})
    assert answer.error[:2] == (404, "TaskNotFound")
    assert "'order version 9'" in answer.json["message"]
    assert answer.json["field"] == "version"


@pytest.fixture
def strict(rest: Rest) -> Rest:
    """An API whose Task order has a payloadSchema."""
    rest.world.cluster.tasks[(SHOP.namespace, "order")] = a_task(payload_schema=ORDER_ID)
    return rest


SCHEMA_ERRORS: dict[str, tuple[Any, str, str]] = {
    "type": ({"orderId": "seven"}, 'payload.orderId: "seven" is not of type "integer"', ".orderId"),
    "missing": ({}, 'payload: "orderId" is a required property', ""),
    "deeper": (
        {"orderId": 1, "lines": [{"sku": "a"}, {"sku": 2}]},
        'payload.lines[1].sku: 2 is not of type "string"',
        ".lines[1].sku",
    ),
}


@pytest.mark.parametrize("name", SCHEMA_ERRORS)
async def test_a_payload_that_breaks_the_schema_is_told_where(strict: Rest, name: str) -> None:
    payload, message, where = SCHEMA_ERRORS[name]
    answer = await strict.trigger({"payload": payload})
    assert answer.error == (422, "PayloadInvalid", message)
    assert answer.json["field"] == f"payload{where}"
    assert answer.json["hint"] == "The Task's spec.payloadSchema says what it takes."
    await strict.world.imports.observe(strict.world.create_run(payload=payload))
    await strict.world.projection.project_due()
    assert strict.world.cluster.statuses["order-1"]["message"] == message


async def test_a_body_over_the_cap_is_refused_before_it_is_parsed(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "parse", lambda *_, **__: pytest.fail("it was parsed"))
    answer = await rest.trigger(b"[" * (8 * MIB + 1))
    assert answer.error == (413, "PayloadTooLarge", f"The body has {8 * MIB + 1} bytes; the limit is {8 * MIB}.")

    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"[" * MIB

    answer = await rest.call("POST", f"{ROOT}/tasks/order/runs", data=unannounced())
    assert answer.error == (413, "PayloadTooLarge", f"The body has more than {8 * MIB} bytes.")


async def test_a_run_resource_over_the_limit_fails_and_says_where_more_fits(rest: Rest) -> None:
    await rest.world.imports.observe(rest.world.create_run(payload="x" * 65_535))
    await rest.world.projection.project_due()
    status = rest.world.cluster.statuses["order-1"]
    assert (status["state"], status["reason"]) == ("Failed", "PayloadTooLarge")
    assert status["message"] == "spec.payload has 65537 bytes; the limit here is 65536."


async def test_a_large_payload_is_stored_beside_its_run(rest: Rest) -> None:
    payload = {"text": "x" * 2_000_000}
    run = (await rest.trigger({"payload": payload})).json
    assert "payload" not in run
    assert run["payloadRef"]["size"] == len(json.dumps(payload, separators=(",", ":")))
    assert (await rest.get(f"/runs/{run['id']}/payload")).json == payload


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 201, ""),
        (b"\xff{}", 422, "body is not UTF-8 at byte 0."),
        (b"{", 422, "body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        (b"[]", 400, "The body is not a trigger request: body: Input should be a valid dictionary"),
        (b'{"tag": []}', 400, "'tag' is not a field of a trigger request."),
        (b'{"tags": ["a", "a"]}', 400, "The body is not a trigger request: tags: a tag stands twice"),
        (b'{"tags": ["a\\u0000"]}', 400, "The body is not a trigger request: tags.0: String should match pattern"),
        (b'{"tags": "a"}', 400, "The body is not a trigger request: tags: Input should be a valid list"),
        (b'{"version": "1"}', 400, "The body is not a trigger request: version: Input should be a valid integer"),
        (b'{"version": 1.5}', 400, "The body is not a trigger request: version: Input should be a valid integer"),
        (b'{"version": 1.0}', 201, ""),
        (b'{"version": 2147483648}', 400, "The body is not a trigger request: version: Input should be less than"),
    ],
)
async def test_a_body_that_is_no_trigger_request_is_told_what_is_wrong(
    rest: Rest, body: bytes, status: int, message: str
) -> None:
    answer = await rest.trigger(body)
    assert answer.status == status, answer.text
    assert status == 201 or answer.json["message"].startswith(message), answer.text


async def test_a_body_of_another_type_is_415(rest: Rest) -> None:
    answer = await rest.trigger("payload=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.error[:2] == (415, "UnsupportedMediaType")
    assert answer.json["hint"] == "Send `Content-Type: application/json`."


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("stat=Failed", "stat", "'stat' is not a query parameter of this route."),
        ("state=failed", "state", "state: Input should be 'Queued', "),
        ("limit=0", "limit", "limit: Input should be greater than or equal to 1"),
        ("limit=NaN", "limit", "limit: Input should be a valid integer"),
        ("createdAfter=yesterday", "createdAfter", "createdAfter: not a time as RFC 3339 writes it, such as"),
        ("task=%00", "task", "task: String should match pattern"),
        ("cursor=AAAA", "cursor", "The cursor is not one that a list returned."),
        ("sort=name", "sort", "sort: Input should be '-created', 'created', '-finished' or 'finished'"),
        ("error=", "error", "error: String should have at least 1 character"),
    ],
)
async def test_a_query_that_cannot_be_understood_names_its_parameter(
    rest: Rest, query: str, field: str, message: str
) -> None:
    answer = await rest.get(f"/runs?{query}")
    assert answer.status == 400, answer.text
    assert answer.json["code"] == "InvalidRequest"
    assert answer.json["field"] == field, answer.text
    assert answer.json["message"].startswith(message), answer.text


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00%2B14:00", "9999-12-31t23:59:59.999999999-14:00"])
async def test_a_time_at_the_ends_of_the_calendar_is_a_time(rest: Rest, time: str) -> None:
    for name in ("createdAfter", "createdBefore", "finishedAfter", "finishedBefore"):
        assert (await rest.get(f"/runs?{name}={time}")).status == 200


async def test_an_error_that_nobody_expected_tells_nothing_of_our_inside(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(rest.world.runs, "list_page", broken)
    with structlog.testing.capture_logs() as logged:
        answer = await rest.get("/runs")
    message = "Something went wrong on our side. The API's log has the details."
    assert answer.error == (500, "InternalError", message)
    assert "secret detail" in str(logged[0]["exc_info"])
