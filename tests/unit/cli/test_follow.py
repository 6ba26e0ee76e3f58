"""Following a run: every line once, every step, over lost connections, to the run's end."""

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from tests.support.fake_api import FakeApi, a_run, a_step
from tests.unit.cli.conftest import Windlass
from windlass.cli.connect import Access
from windlass.cli.follow import Follower
from windlass.cli.live import LiveView
from windlass.errors import ApiError


class Seen:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.steps: list[tuple[str, str]] = []
        self.troubles: list[str | None] = []

    def lines(self, items: list[dict[str, Any]]) -> None:
        self.text += [line["text"] for line in items]

    def progress(self, run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        self.steps += [(step["key"], step["state"]) for step in steps]

    def trouble(self, error: ApiError | None) -> None:
        self.troubles.append(error.code if error else None)


def _followed(api: FakeApi, run: str, **more: Any) -> tuple[Seen, dict[str, Any]]:  # noqa: ARG001 - it must be served
    seen, access = Seen(), Access("shop")
    return seen, Follower(access, access.client(), run, seen, pause=lambda _: None, **more).follow()


def _goes_on(api: FakeApi, run: str) -> None:
    """Let the run write a line with each question, work through two steps, and end."""

    def step_by_step(_: str, question: int) -> None:
        api.logs[run].append(f"line {question}")
        api.runs[run]["steps"] = {"succeeded": question}
        api.steps[run] = [a_step("charge"), a_step("ship", "running" if question < 3 else "succeeded")][:question]
        if question == 4:
            api.end(run, result={"ok": True})

    api.logs[run] = []
    api.on_logs = step_by_step


def test_lines_and_steps_are_shown_as_they_come(api: FakeApi) -> None:
    run = api.add(a_run(1))["id"]
    _goes_on(api, run)
    seen, ended = _followed(api, run)
    assert ended["state"] == "Succeeded"
    assert seen.text == ["line 1", "line 2", "line 3", "line 4"]
    assert seen.steps == [("charge", "succeeded"), ("ship", "running"), ("ship", "succeeded")]


def test_a_connection_lost_in_the_middle_of_an_answer_loses_and_repeats_no_line(api: FakeApi) -> None:
    run = api.add(a_run(1))["id"]
    _goes_on(api, run)
    api.cut = 3
    seen, _ = _followed(api, run)
    assert seen.text == sorted(set(seen.text))
    assert seen.text[0] == "line 1"
    assert seen.troubles == ["ApiUnreachable", None]


def test_an_outage_is_waited_out_and_a_refusal_is_not(api: FakeApi) -> None:
    run = api.add(a_run(1, state="Succeeded"))["id"]
    api.refuse["/logs"] = (503, {"code": "LedgerUnavailable", "message": "Postgres does not answer"})
    asked = []

    def pause(_: float) -> None:
        asked.append(1)
        if len(asked) == 5:
            del api.refuse["/logs"]

    seen, access = Seen(), Access("shop")
    Follower(access, access.client(), run, seen, pause=pause).follow()
    assert seen.troubles == ["LedgerUnavailable", None]
    api.refuse["/logs"] = (403, {"code": "Forbidden", "message": "no"})
    with pytest.raises(ApiError, match="no"):
        _followed(api, run)


def test_a_timeout_says_that_the_run_goes_on_and_how_to_see_it(api: FakeApi) -> None:
    run = api.add(a_run(1))["id"]
    clock = iter(range(100))
    access = Access("shop", timeout=timedelta(seconds=5))
    with pytest.raises(ApiError) as failed:
        Follower(access, access.client(), run, Seen(), clock=lambda: next(clock)).follow()
    assert failed.value.code == "Timeout"
    assert f"windlass runs logs {run} --follow -n shop" in str(failed.value.hint)


def test_following_into_a_pipe_keeps_log_and_result_apart_from_the_rest(api: FakeApi, windlass: Windlass) -> None:
    def end(run: str, _: int) -> None:
        api.logs[run], api.results[run] = ["hello"], {"ok": 1}
        api.steps[run] = [a_step("charge"), a_step("ship", "failed", error={"type": "E", "message": "no"})]
        api.end(run, steps={"succeeded": 1, "failed": 1})

    api.on_logs = end
    done = windlass("run", "order", "--follow")
    assert done.exit_code == 0
    assert done.stdout == 'hello\n{"ok": 1}\n'
    said = done.stderr.splitlines()
    assert said[1:3] == ["step charge succeeded in 12ms", "step ship failed in 12ms: E: no"]
    assert "\x1b" not in done.output


def test_a_run_that_fails_while_it_is_followed_is_code_1_with_its_error(api: FakeApi, windlass: Windlass) -> None:
    error = {"type": "ValueError", "message": "out of stock", "class": "user"}
    run = api.add(a_run(1, name="order-1", state="Failed", reason="AttemptsExhausted", error=error))
    for words in (["runs", "logs", "order-1", "--follow"], ["runs", "get", run["id"], "--watch"]):
        done = windlass(*words)
        assert done.exit_code == 1
    assert "ValueError: out of stock" in windlass("runs", "logs", "order-1", "-f").stderr


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_end_it(api: FakeApi, windlass: Windlass) -> None:
    run = api.add(a_run(1))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("windlass.client.Client.call", interrupt)
        done = windlass("runs", "logs", run["id"], "-f")
    assert done.exit_code == 130
    assert f"windlass runs cancel {run['id']} -n shop" in done.stderr
    assert api.runs[run["id"]]["state"] == "Running"


def test_on_a_terminal_the_log_runs_through_above_the_steps() -> None:
    screen = io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=True, width=80, height=20, highlight=False))
    with view.shown():
        view.lines([{"text": "charging \x1b[32m7\x1b[0m", "attempt": 1, "seq": 1}])
        view.progress(a_run(1), [a_step(f"step-{n}") for n in range(30)] + [a_step("ship", "running")])
        view.trouble(ApiError("ApiUnreachable", "connection refused"))
        view.progress(a_run(1, state="Succeeded", duration="3s"), [a_step("ship")])
        view.trouble(None)
    shown = screen.getvalue()
    last = shown[shown.rindex("more steps above") :]
    assert shown.index("charging") < shown.index("ship")
    assert "… 21 more steps above" in shown
    assert "✓" in last
    assert "Succeeded" in last
    assert "connection" not in last
    assert json.dumps({"of": "ship"}) in last
