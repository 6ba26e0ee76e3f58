"""Approvals through REST and the command line: who decided is who sent the token."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.rest.test_command_line import CommandLine
from tests.support.approvals import a_question, asking
from tests.support.rest import ROOT, VIEWER, Answer, Rest

BOB = "token-of-bob"
"""May do what alice may."""


@pytest.fixture
def windlass(rest: Rest, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(rest.url, tmp_path_factory.mktemp("pyc"))


async def asked(rest: Rest) -> dict[str, Any]:
    """Have a run ask, and return the approval as a list shows it."""
    await asking(rest.world, a_question(details={"order": 7}))
    (found,) = (await rest.get("/approvals")).json["items"]
    return dict(found)


async def decide(rest: Rest, name: str, body: Any, **more: Any) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await rest.call("POST", f"{ROOT}/approvals/{name}/decision", data=data, **more)


async def test_a_question_is_listed_and_shown_with_its_details(rest: Rest) -> None:
    found = await asked(rest)
    assert "details" not in found
    assert (found["state"], found["question"], found["task"]) == ("Pending", "Refund 80 EUR?", "order")
    whole = (await rest.get(f"/approvals/{found['name']}")).json
    assert whole == {**found, "details": {"order": 7}}
    assert (await rest.get(f"/runs/{found['run']}")).json["reason"] == "WaitingForApproval"


async def test_a_decision_is_the_tokens_owners(rest: Rest) -> None:
    found = await asked(rest)
    answer = await decide(rest, found["name"], {"decision": "Approved", "comment": "fine"})
    assert answer.status == 200
    assert {key: answer.json[key] for key in ("state", "by", "comment")} == {
        "state": "Approved",
        "by": "alice",
        "comment": "fine",
    }
    assert answer.json["endedAt"]
    assert (await rest.get(f"/runs/{found['run']}")).json["state"] == "Queued"


async def test_whoever_is_second_reads_who_was_first(rest: Rest) -> None:
    rest.reviews.users[BOB] = "bob"
    rest.reviews.powerful.add("bob")
    found = await asked(rest)
    await decide(rest, found["name"], {"decision": "Approved"})
    answer = await decide(rest, found["name"], {"decision": "Refused"}, token=BOB)
    assert answer.error[:2] == (409, "ApprovalDecided")
    assert "was approved by alice at 2" in answer.error[2]
    assert (await decide(rest, found["name"], {"decision": "Approved"})).status == 200, "one's own may be repeated"
    assert (await decide(rest, found["name"], {"decision": "Refused"})).error[:2] == (409, "ApprovalDecided")


async def test_a_crowd_decides_once(rest: Rest) -> None:
    found = await asked(rest)
    for number in range(8):
        rest.reviews.users[f"token-{number}"] = f"user-{number}"
        rest.reviews.powerful.add(f"user-{number}")
    words = ["Approved", "Refused"] * 4
    answers = await asyncio.gather(
        *(decide(rest, found["name"], {"decision": w}, token=f"token-{n}") for n, w in enumerate(words))
    )
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    (first,) = (answer.json for answer in answers if answer.status == 200)
    assert (await rest.get(f"/approvals/{found['name']}")).json["by"] == first["by"]


async def test_what_is_over_otherwise_cannot_be_decided(rest: Rest) -> None:
    found = await asked(rest)
    await rest.call("POST", f"{ROOT}/runs/{found['run']}/cancel")
    assert (await rest.get(f"/approvals/{found['name']}")).json["state"] == "Withdrawn"
    assert (await decide(rest, found["name"], {"decision": "Approved"})).error[:2] == (409, "ApprovalWithdrawn")


async def test_who_may_only_look_decides_nothing(rest: Rest) -> None:
    found = await asked(rest)
    answer = await decide(rest, found["name"], {"decision": "Approved"}, token=VIEWER)
    assert answer.error == (403, "Forbidden", "viewer may not update approvals.windlass.dev in namespace 'shop'.")
    assert "windlass-approve" in answer.json["hint"]
    assert (await rest.get(f"/approvals/{found['name']}", token=VIEWER)).status == 200


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (b"", "body", "decision"),
        (b"[]", "body", "decision"),
        ({}, "decision", "Field required"),
        ({"decision": "approved"}, "decision", "'Approved' or 'Refused'"),
        ({"decision": True}, "decision", "'Approved' or 'Refused'"),
        ({"decision": "Approved", "by": "bob"}, "by", "the token says and not the body"),
        ({"decision": "Approved", "comments": "x"}, "comments", "not a field of a decision"),
        ({"decision": "Approved", "comment": "x" * 1025}, "comment", "at most 1024"),
        ({"decision": "Approved", "comment": "a\0b"}, "comment", "pattern"),
        ({"decision": "Approved", "comment": 7}, "comment", "string"),
    ],
)
async def test_a_body_that_is_no_decision_is_told_where(rest: Rest, body: Any, field: str, said: str) -> None:
    found = await asked(rest)
    answer = await decide(rest, found["name"], body)
    assert (answer.status, answer.json["field"]) == (400, field), answer.text
    assert said in answer.json["message"]
    assert (await rest.get(f"/approvals/{found['name']}")).json["state"] == "Pending"


async def test_an_approval_that_is_not_there_says_where_to_look(rest: Rest) -> None:
    await asked(rest)
    for name in ("order-nothing", "x" * 300, "%F0%9F%98%80"):
        answer = await rest.get(f"/approvals/{name}")
        assert answer.error[:2] == (404, "ApprovalNotFound")
        assert "windlass approvals list -n shop" in answer.error[2]


async def test_lists_are_filtered_and_come_in_pages(rest: Rest) -> None:
    await asking(rest.world, *(a_question(f"q{number}") for number in range(5)))
    names = [item["name"] for item in (await rest.get("/approvals")).json["items"]]
    await decide(rest, names[0], {"decision": "Refused"})
    shown = [item["name"] for item in (await rest.get("/approvals?state=Refused")).json["items"]]
    assert shown == names[:1]
    page = (await rest.get("/approvals?state=Pending&limit=3")).json
    assert [item["name"] for item in page["items"]] == names[1:4]
    page = (await rest.get(f"/approvals?state=Pending&limit=3&cursor={page['nextCursor']}")).json
    assert ([item["name"] for item in page["items"]], page["nextCursor"]) == (names[4:], None)
    for query in ("state=pending", "limit=0", "cursor=x", "states=Pending"):
        assert (await rest.get(f"/approvals?{query}")).error[:2] == (400, "InvalidRequest"), query


async def test_the_command_line_lists_shows_and_decides(rest: Rest, windlass: CommandLine) -> None:
    found = await asked(rest)
    _, out, _ = await windlass("approvals", "list")
    assert out.splitlines()[0].split() == ["NAME", "STATE", "TASK", "QUESTION", "BY", "AGE"]
    assert found["name"] in out
    assert "Refund 80 EUR?" in out
    _, out, _ = await windlass("approvals", "get", found["name"])
    assert '"order": 7' in out
    code, out, _ = await windlass("approvals", "refuse", found["name"], "--comment", "paid already")
    assert (code, out) == (0, f"{found['name']} Refused by alice\n")
    code, _, err = await windlass("approvals", "approve", found["name"])
    assert code == 3
    assert err.startswith(f"ApprovalDecided: Approval {found['name']!r} was refused by alice")
    assert found["name"] not in (await windlass("approvals", "list"))[1]
    _, out, _ = await windlass("approvals", "list", "--state", "Refused", "-o", "json")
    assert json.loads(out)[0]["comment"] == "paid already"
    assert (await windlass("approvals", "list", "--all", "-o", "name"))[1] == f"{found['name']}\n"


async def test_a_question_cannot_move_the_cursor_of_whoever_reads_it(rest: Rest, windlass: CommandLine) -> None:
    await asking(rest.world, a_question(question="harmless\x1b[2J\nApproved by nobody", details="\x9b31m"))
    (found,) = (await rest.get("/approvals")).json["items"]
    for words in (["list"], ["get", found["name"]]):
        _, out, _ = await windlass("approvals", *words)
        assert not [letter for letter in out if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160]
    assert len((await windlass("approvals", "list"))[1].splitlines()) == 2
