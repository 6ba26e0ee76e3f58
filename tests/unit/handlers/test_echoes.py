"""Which events of a watch are kept from kopf: those of our own statuses, and none that anybody else brought about."""

import copy
import json
from typing import Any

import pytest

from windlass_operator.handlers.echoes import without_echo

RUN: dict[str, Any] = {
    "apiVersion": "windlass.dev/v1alpha1",
    "kind": "Run",
    "metadata": {"name": "order-1", "namespace": "shop", "uid": "u", "generation": 2, "resourceVersion": "77"},
    "spec": {"taskRef": {"name": "order"}, "payload": {"status": {"runId": "other"}, "metadata": {"generation": 9}}},
    "status": {"runId": "known", "state": "Running"},
}


def known(uid: str, generation: int, run_id: str | None) -> bool:
    return (uid, generation, run_id) == ("u", 2, "known")


def line(event: str = "MODIFIED", **changes: Any) -> bytes:
    """Return a line as the API server writes it, with fields changed by path; None takes one out."""
    body = copy.deepcopy(RUN)
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = body
        for folder in folders:
            place = place[folder]
        place[last] = value
        if value is None:
            del place[last]
    return json.dumps({"type": event, "object": body}, separators=(",", ":")).encode()


def test_our_own_status_becomes_a_bookmark_of_its_version() -> None:
    kept = json.loads(without_echo(line(), known))
    assert kept["type"] == "BOOKMARK"
    assert kept["object"] == {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Run",
        "metadata": {"resourceVersion": "77"},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "ADDED"},
        {"event": "DELETED"},
        {"event": "BOOKMARK"},
        {"event": "ERROR"},
        {"metadata__generation": 3},
        {"metadata__generation": "2"},
        {"metadata__generation": None},
        {"metadata__uid": "another"},
        {"metadata__deletionTimestamp": "2026-11-21T12:00:00Z"},
        {"status": None},
        {"status": "junk"},
        {"status": {}},
        {"status__runId": "other"},
        {"status__runId": 7},
        {"kind": "Task"},
        {"apiVersion": "example.com/v1"},
    ],
    ids=str,
)
def test_every_other_event_stays_as_it_came(changes: dict[str, Any]) -> None:
    text = line(**changes)
    assert without_echo(text, known) == text


@pytest.mark.parametrize(
    "text", [b"", b"junk", b'{"type":"MODIFIED"', b'{"type":"MODIFIED","object":[]}', b"[" * 9_999]
)
def test_what_is_not_understood_stays_as_it_came(text: bytes) -> None:
    assert without_echo(text, known) == text


def test_a_payload_that_looks_like_the_fields_that_are_read_changes_nothing() -> None:
    assert without_echo(line(metadata__generation=9), known) == line(metadata__generation=9)
    hostile = line(spec__payload={"generation": 3, "deletionTimestamp": "x", "big": 10**400, "deep": [[[]]]})
    assert json.loads(without_echo(hostile, known))["type"] == "BOOKMARK"
