"""What ``windlass runs list`` and ``get`` show, in each form."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.support.fake_api import FakeApi, a_run, a_step
from tests.unit.cli.conftest import Windlass


def test_a_list_is_a_table_with_the_newest_first(api: FakeApi, windlass: Windlass) -> None:
    api.add(a_run(1, state="Failed", reason="AttemptsExhausted"))
    api.add(a_run(2, task="mail"))
    lines = windlass("runs", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "TASK", "STATE", "ATTEMPT", "REASON", "AGE"]
    assert lines[1].split()[:3] == ["01900000-0000-7000-8000-000000000002", "mail", "Running"]
    assert lines[2].split()[2:5] == ["Failed", "1", "AttemptsExhausted"]


def test_the_other_forms_are_for_programs(api: FakeApi, windlass: Windlass) -> None:
    run = api.add(a_run(1, tags=["eu"], podName="order-abc", name="order-1"))
    assert json.loads(windlass("runs", "list", "-o", "json").stdout) == [run]
    assert yaml.safe_load(windlass("runs", "list", "-o", "yaml").stdout) == [run]
    assert windlass("runs", "list", "-o", "name").stdout == f"{run['id']}\n"
    assert "order-abc" in windlass("runs", "list", "-o", "wide").stdout
    assert json.loads(windlass("runs", "get", "order-1", "-o", "json").stdout) == run
    assert yaml.safe_load(windlass("runs", "get", "order-1", "-o", "yaml").stdout) == run
    assert windlass("runs", "get", "order-1", "-o", "name").stdout == f"{run['id']}\n"


def test_every_filter_reaches_the_api(api: FakeApi, windlass: Windlass) -> None:
    done = windlass(
        *["runs", "list", "--task", "order", "--state", "Failed", "--state", "TimedOut", "--tag", "eu", "--tag", "b2b"],
        *["--since", "2030-01-01T00:00:00Z", "--before", "2030-01-02T01:00:00+01:00"],
        *["--error", "out of stock", "--sort", "-finished", "--limit", "7"],
    )
    assert done.exit_code == 0, done.stderr
    assert api.seen[0].query == {
        "task": ["order"],
        "state": ["Failed", "TimedOut"],
        "tag": ["eu", "b2b"],
        "createdAfter": ["2030-01-01T00:00:00.000Z"],
        "createdBefore": ["2030-01-02T00:00:00.000Z"],
        "error": ["out of stock"],
        "sort": ["-finished"],
        "limit": ["7"],
    }


def test_a_long_list_says_that_it_is_cut_and_can_be_read_whole(api: FakeApi, windlass: Windlass) -> None:
    for number in range(1, 1201):
        api.add(a_run(number))
    cut = windlass("runs", "list")
    assert len(cut.stdout.splitlines()) == 51
    assert "--limit 0" in cut.stderr
    whole = windlass("runs", "list", "--limit", "0", "-o", "name")
    assert len(set(whole.stdout.splitlines())) == 1200
    assert whole.stderr == ""


def test_a_run_is_shown_with_why_and_when(api: FakeApi, windlass: Windlass) -> None:
    run = api.add(a_run(1, name="order-1", message="Waits for a node.", reason="Unschedulable"))
    api.steps[run["id"]] = [a_step("charge"), a_step("ship", "running")]
    event = {"at": "2030-01-01T08:00:02Z", "type": "claimed", "attempt": 1}
    api.events[run["id"]] = [event]
    lost = {"type": "Evicted", "message": "Pod order-1-ab: The node was low on memory.\nmore", "class": "infra"}
    began, ended = "2030-01-01T08:00:00.5Z", "2030-01-01T08:00:10Z"
    api.attempts[run["id"]] = [
        {"number": 1, "outcome": "Lost", "startedAt": began, "endedAt": ended, "error": lost, "memoryBytes": 1,
         "pod": {"name": "order-1-ab", "node": "worker-1"}},
        {"number": 2, "outcome": None, "startedAt": ended, "endedAt": None, "error": None, "pod": None},
    ]  # fmt: skip
    shown = windlass("runs", "get", "order-1").stdout
    assert "Reason:   Unschedulable\nMessage:  Waits for a node.\n" in shown
    assert any(line.split()[:5] == ["charge", "succeeded", "1", "+1s", "12ms"] for line in shown.splitlines())
    assert any(line.split() == ["+2s", "claimed", "1"] for line in shown.splitlines())
    why = "Evicted: Pod order-1-ab: The node was low on memory."
    assert any(line.split()[:1] == ["1"] and line.endswith(why) and "worker-1" in line for line in shown.splitlines())
    assert any(line.split()[:2] == ["2", "open"] for line in shown.splitlines())


def test_a_message_cannot_break_a_table_or_move_the_cursor(api: FakeApi, windlass: Windlass) -> None:
    api.add(a_run(1, reason="two\nlines\x1b[2J"))
    assert len(windlass("runs", "list").stdout.splitlines()) == 2
    assert "\x1b" not in windlass("runs", "list").stdout


@pytest.mark.parametrize("since", ["yesterday", "-1h", "2030-13-01"])
def test_a_time_that_is_none_is_a_usage_error(api: FakeApi, windlass: Windlass, since: str) -> None:
    done = windlass("runs", "list", f"--since={since}")
    assert done.exit_code == 2
    assert "1h30m" in done.stderr
    assert not api.seen


def test_watching_a_list_prints_a_line_for_each_change(
    api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.add(a_run(1))

    def pass_time(_: float) -> None:
        if first["state"] == "Running":
            api.end(first["id"])
        elif len(api.runs) == 1:
            api.add(a_run(2))
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("windlass.cli.watch.pause", pass_time)
    done = windlass("runs", "list", "--watch")
    assert [line.split()[0][-1] + line.split()[2] for line in done.stdout.splitlines()[1:]] == [
        "1Running",
        "1Succeeded",
        "2Running",
    ]
    assert done.exit_code == 130


def test_watching_a_run_ends_with_it_and_tells_by_the_exit_code(
    api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.add(a_run(1))
    monkeypatch.setattr("windlass.cli.watch.pause", lambda _: api.end(run["id"], "Failed"))
    done = windlass("runs", "get", run["id"], "--watch", "-o", "json")
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["Running", "Failed"]
    assert done.exit_code == 1


def test_on_a_terminal_a_watched_list_is_drawn_in_place(
    api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.add(a_run(1))
    drawn: list[str] = []

    @contextmanager
    def redrawn() -> Iterator[Callable[[str], None]]:
        yield drawn.append

    def pass_time(_: float) -> None:
        if run["state"] == "Succeeded":
            raise KeyboardInterrupt
        api.end(run["id"])

    monkeypatch.setattr("windlass.cli.runs.on_screen", lambda _: True)
    monkeypatch.setattr("windlass.cli.runs.redrawn", redrawn)
    monkeypatch.setattr("windlass.cli.watch.pause", pass_time)
    assert windlass("runs", "list", "--watch").exit_code == 130
    assert [picture.splitlines()[1].split()[2] for picture in drawn] == ["Running", "Succeeded"]
