"""Lists taken apart without being built: what is in them, and what is not understood in them."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.kube.pages import continue_token, items_of
from windlass_operator.kube.run_head import see_run

RUN: dict[str, Any] = {
    "metadata": {"name": "order-1", "uid": "u", "generation": 2, "resourceVersion": "7"},
    "spec": {"payload": {"metadata": {"uid": "other"}, "big": 10**30}},
    "status": {"runId": "r", "state": "Running"},
}


def text(**changes: Any) -> bytes:
    return json.dumps({**RUN, **changes}).encode()


def test_a_run_is_seen_without_its_spec_and_read_when_it_is_asked_for() -> None:
    seen = see_run(text())
    assert (seen.uid, seen.generation, seen.run_id, seen.deleting) == ("u", 2, "r", False)
    assert seen.body() == RUN
    assert see_run(text(metadata={**RUN["metadata"], "deletionTimestamp": "2026-11-21T12:00:00Z"})).deleting
    assert see_run(text(status=None)).run_id is None


def test_what_a_run_shows_is_seen_without_reading_it_also_where_it_is_read_as_a_whole() -> None:
    named = {**RUN["metadata"], "namespace": "shop", "creationTimestamp": "2026-11-21T12:00:00Z"}
    seen = see_run(text(metadata=named, status={"runId": "r", "state": "Queued", "reason": "Paused"}))
    assert (seen.namespace, seen.name, seen.state, seen.reason) == ("shop", "order-1", "Queued", "Paused")
    assert seen.created == datetime(2026, 11, 21, 12, tzinfo=UTC)
    whole = see_run(text(metadata={**named, "generation": "2"}, status={"state": "Queued", "reason": 7}))
    assert (whole.namespace, whole.name, whole.state, whole.reason) == ("shop", "order-1", "Queued", None)


@pytest.mark.parametrize(
    "changes",
    [{"status": "junk"}, {"status": {"runId": 7}}, {"metadata": {"uid": "u", "generation": "2"}}, {"status": []}],
    ids=str,
)
def test_a_run_with_junk_in_it_is_read_as_a_whole(changes: dict[str, Any]) -> None:
    seen = see_run(text(**changes))
    assert (seen.uid, seen.generation, seen.run_id) == ("u", -1, None)
    assert seen.body() == {**RUN, **changes}


@pytest.mark.parametrize("junk", [b"7", b"[]", b'{"metadata": 7}', b"{}"])
def test_what_is_no_run_at_all_is_seen_as_nothing_that_is_known(junk: bytes) -> None:
    assert (see_run(junk).uid, see_run(junk).generation) == ("None", -1)


def test_a_page_is_taken_apart_and_says_whether_more_come() -> None:
    page = json.dumps({"items": [RUN, {}], "metadata": {"continue": "next", "resourceVersion": "9"}}).encode()
    assert [json.loads(item) for item in items_of(page)] == [RUN, {}]
    assert continue_token(page) == "next"
    for last in (b"{}", b'{"metadata": {}, "items": null}', b'{"metadata": {"continue": ""}}'):
        assert (items_of(last), continue_token(last)) == ([], None)


def test_an_object_that_is_too_deep_is_cut_and_hides_no_other() -> None:
    deep = "[" * 9_990 + "]" * 9_990
    page = f'{{"items": [{{"metadata": {{"uid": "deep"}}, "spec": {deep}}}, {{}}], "metadata": {{}}}}'.encode()
    assert [see_run(item).uid for item in items_of(page)] == ["deep", "None"]
    assert continue_token(page) is None


def test_a_proxys_page_is_no_answer() -> None:
    with pytest.raises(KubeUnavailableError):
        items_of(b"<html>")


def test_a_run_of_many_levels_is_read_as_a_whole_and_keeps_nobody_else_from_being_looked_at() -> None:
    deep = b"[" * 10_000 + b"]" * 10_000
    seen = see_run(b'{"metadata": {"uid": "u", "generation": 1}, "spec": {"payload": ' + deep + b"}}")
    assert (seen.uid, seen.generation) == ("u", -1)
    assert seen.body()["metadata"] == {"uid": "u", "generation": 1}
