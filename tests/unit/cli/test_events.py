"""``windlass events send``."""

import json
from pathlib import Path

from tests.support.fake_api import FakeApi
from tests.unit.cli.conftest import Windlass


def test_an_event_is_sent_and_its_id_printed(api: FakeApi, windlass: Windlass) -> None:
    done = windlass("events", "send", "paid", '{"orderId": 7}', "--id", "payment-81")
    assert (done.exit_code, done.stdout) == (0, "payment-81\n")
    assert "2 runs got it" in done.stderr
    (request,) = api.asked("/events")
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/shop/events")
    assert json.loads(request.body) == {"name": "paid", "payload": {"orderId": 7}, "id": "payment-81"}


def test_the_payload_comes_from_a_file_or_standard_input_or_is_null(
    api: FakeApi, windlass: Windlass, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text("[1]")
    windlass("events", "send", "paid", f"@{tmp_path}/p.json")
    windlass("events", "send", "paid", "-", stdin='{"a": 2}')
    windlass("events", "send", "paid")
    assert [json.loads(request.body)["payload"] for request in api.asked("/events")] == [[1], {"a": 2}, None]


def test_a_call_whose_answer_is_lost_is_repeated_with_the_same_id(api: FakeApi, windlass: Windlass) -> None:
    api.cut = 1
    done = windlass("events", "send", "paid")
    assert done.exit_code == 0
    first, second = [json.loads(request.body)["id"] for request in api.asked("/events")]
    assert first == second == done.stdout.strip()


def test_a_payload_that_is_no_json_is_a_usage_error(api: FakeApi, windlass: Windlass) -> None:
    done = windlass("events", "send", "paid", "{orderId: 7}")
    assert done.exit_code == 2
    assert "PAYLOAD is not JSON" in done.stderr
    assert api.asked("/events") == []


def test_a_refusal_is_told_with_its_code(api: FakeApi, windlass: Windlass) -> None:
    api.refuse["/events"] = (409, {"code": "EventIdInUse", "message": "taken"})
    done = windlass("events", "send", "paid", "--id", "a")
    assert (done.exit_code, done.stderr.split()[0]) == (3, "EventIdInUse:")
