"""Many ends in one request: each is read and answered by itself."""

import json
from typing import Any

import pytest

from tests.support.rest import Rest
from windlass import protocol


@pytest.fixture
async def session(rest: Rest) -> str:
    """Of a pod with three slots, which holds nothing."""
    pod = await rest.world.reusable_pod(slots=3)
    body = {"claimId": "first", "podName": pod.pod_name, "podUid": pod.pod_uid, "waitMs": 0}
    answer = await rest.call("POST", "/runtime/v1/claim", token=pod.secret, data=json.dumps(body).encode())
    return str(answer.json["session"])


async def ends(rest: Rest, session: str | None, body: Any) -> Any:
    return await rest.call("POST", "/runtime/v1/ends", token=session, data=json.dumps(body).encode())


async def claimed(rest: Rest, session: str, number: int) -> list[dict[str, Any]]:
    """Let a pod take runs: with the end of one that it takes first."""
    pods = await rest.world.database.fetch("SELECT uid, name FROM pod")
    for n in range(number):
        assert (await rest.trigger({"payload": n})).status in (200, 201)
    body = {"claimId": "more", "podName": pods[0]["name"], "podUid": pods[0]["uid"], "slots": number, "waitMs": 0}
    body["credential"] = "session"
    answer = await rest.call("POST", "/runtime/v1/claim", token=session, data=json.dumps(body).encode())
    return list(answer.json["attempts"])


async def test_each_end_is_answered_as_it_would_be_alone(rest: Rest, session: str) -> None:
    one, two, three = [attempt["token"] for attempt in await claimed(rest, session, 3)]
    for n in range(2):
        await rest.trigger({"payload": n})
    wanted = [
        {"token": one, "complete": {"result": {"ok": True}}},
        {"token": two, "fail": {"failure": {"type": "a\0b", "message": "m"}}},
        {"token": two, "fail": {"failure": {"type": "ValueError", "message": "a\0b"}}},
        {"token": three, "complete": {"result": 1}, "fail": {"failure": {"type": "E", "message": "m"}}},
        {"token": "?", "complete": {"result": 1}},
        {"token": three, "complete": {"result": 1, "claim": {"claimId": "x"}}},
        {"token": three},
        17,
    ]
    answer = await ends(rest, session, {"ends": wanted, "claim": {"claimId": "next", "slots": 3}})
    assert answer.status == 200
    found = answer.json["ends"]
    assert [end.get("status", 200) for end in found] == [200, 400, 200, 400, 401, 400, 400, 400]
    assert [end["outcome"]["state"] for end in (found[0], found[2])] == ["Succeeded", "Queued"]
    assert all(end["error"]["code"] and end["error"]["message"] for end in found if "error" in end)
    assert len(answer.json["attempts"]) == 2, "the pod holds one still"
    again = await ends(rest, session, {"ends": wanted, "claim": {"claimId": "next", "slots": 3}})
    assert again.json == {"ends": found}


async def test_who_shows_nothing_is_refused(rest: Rest) -> None:
    assert (await ends(rest, None, {"ends": []})).status == 401


async def test_too_many_ends_are_refused_and_none_is_fine(rest: Rest, session: str) -> None:
    answer = await ends(rest, session, {"ends": [{"token": "?"}] * (protocol.MOST_ENDS + 1)})
    assert answer.error[:2] == (400, "InvalidRequest")
    answer = await ends(rest, session, {"ends": [], "claim": {"claimId": "x"}})
    assert (answer.status, answer.json) == (200, {"ends": []})
