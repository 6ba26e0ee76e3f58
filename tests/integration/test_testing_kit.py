"""The testing kit as its users have it: tasks run on a real ledger, and no wait takes time."""

import asyncio
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import windlass
from tests.support.eventually import eventually
from tests.support.postgres import PostgresServer
from windlass import PermanentError, Retry, step, task
from windlass.errors import RunFailedError, WaitTimeoutError
from windlass.testing import SILENCE, Environment, TestingError, UnscriptedWaitError, Waiting
from windlass.testing.plane import Plane

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@step
def mail(to: str) -> str:
    calls.append(to)
    return f"sent to {to}"


@task
async def remind(to: str) -> str:
    await windlass.sleep("30d")
    return mail(to)


def test_a_sleep_of_thirty_days_takes_no_time(windlass_env: Environment) -> None:
    before, began = windlass_env.now, time.monotonic()
    run = windlass_env.run(remind, "ada")
    assert run.result == "sent to ada"
    assert calls == ["ada"]
    assert windlass_env.now - before == timedelta(days=30)
    assert time.monotonic() - began < 5
    assert [(s.name, s.kind, s.state) for s in run.steps] == [
        ("sleep", "sleep", "succeeded"),
        ("mail", "step", "succeeded"),
    ]
    assert run.attempts == 2


@task
def wake_up_later(nights: int) -> list[str]:
    times = []
    for _ in range(nights):
        windlass.sleep_sync("1d")
        times.append(windlass.now().isoformat())
    return times


def test_the_time_that_the_code_is_told_goes_with_the_clock(windlass_env: Environment) -> None:
    start = windlass_env.now
    run = windlass_env.run(wake_up_later, 3)
    assert run.result == [(start + timedelta(days=n)).isoformat() for n in (1, 2, 3)]


@task
async def ship(order: dict[str, Any]) -> Any:
    paid = await windlass.wait_for_event("paid", {"order": order["id"]}, timeout="7d")
    return paid.payload["amount"]


def test_a_scripted_event_comes_when_the_run_waits_for_it(windlass_env: Environment) -> None:
    windlass_env.on_event("paid", lambda waiting: {**waiting.detail["match"], "amount": 80})
    assert windlass_env.run(ship, {"id": 7}).result == 80


def test_an_event_sent_by_hand_lets_the_run_go_on(windlass_env: Environment) -> None:
    run = windlass_env.start(ship, {"id": 7})
    assert run.state == "Waiting"
    (waiting,) = run.waits_for
    assert (waiting.kind, waiting.target, waiting.due) == ("event", "paid", windlass_env.now + timedelta(days=7))
    windlass_env.send_event("paid", {"order": 8, "amount": 1})
    assert run.state == "Waiting"
    windlass_env.send_event("paid", {"order": 7, "amount": 80})
    assert run.result == 80


def test_a_run_that_waits_for_what_nobody_scripted_fails_at_once_and_says_how(windlass_env: Environment) -> None:
    with pytest.raises(UnscriptedWaitError) as told:
        windlass_env.run(ship, {"id": 7})
    text = str(told.value)
    assert "Task 'ship' waits for event 'paid' with {'order': 7} until" in text
    assert "env.on_event('paid', {...})" in text
    assert "SILENCE" in text


def test_a_scripted_event_that_does_not_match_is_told_of(windlass_env: Environment) -> None:
    windlass_env.on_event("paid", {"order": 1})
    with pytest.raises(TestingError, match=r"wants an event that contains \{'order': 7\}"):
        windlass_env.run(ship, {"id": 7})


def test_silence_lets_the_timeout_pass(windlass_env: Environment) -> None:
    windlass_env.on_event("paid", SILENCE)
    run = windlass_env.run(ship, {"id": 7})
    assert run.state == "Failed"
    assert run.error is not None
    assert run.error.failure_type == WaitTimeoutError.__name__


@task
async def refund(amount: int) -> str:
    try:
        decision = await windlass.wait_for_approval(f"Refund {amount} EUR?", timeout="3d")
    except WaitTimeoutError:
        return "nobody cared"
    return f"{decision.by}: {decision.comment}" if decision.approved else "refused"


def test_approvals_are_scripted_or_given_by_hand(windlass_env: Environment) -> None:
    windlass_env.on_approval(lambda asked: "80" in str(asked.question), by="ada", comment="fine")
    assert windlass_env.run(refund, 80).result == "ada: fine"
    assert windlass_env.run(refund, 90).result == "refused"


def test_an_approval_is_refused_by_hand(windlass_env: Environment) -> None:
    run = windlass_env.start(refund, 80)
    assert [w.question for w in run.waits_for] == ["Refund 80 EUR?"]
    windlass_env.refuse(by="bob")
    assert run.result == "refused"


def test_time_passes_by_hand(windlass_env: Environment) -> None:
    run = windlass_env.start(refund, 80)
    windlass_env.advance("2d")
    assert run.state == "Waiting"
    windlass_env.advance("1d")
    assert run.result == "nobody cared"


@task
async def pay(_: int) -> Any:
    token = await windlass.create_token()
    calls.append(token.url)
    return await windlass.wait_for(token)


def test_tokens_are_scripted_or_completed_by_hand(windlass_env: Environment) -> None:
    windlass_env.on_token({"ok": True})
    assert windlass_env.run(pay, 1).result == {"ok": True}


def test_a_token_is_completed_by_its_address(windlass_env: Environment) -> None:
    run = windlass_env.start(pay, 1)
    windlass_env.complete_token("yes", token=calls[0])
    assert run.result == "yes"


@task
def fetch(page: int) -> str:
    windlass.sleep_sync("1h")
    return f"page {page}"


@task
async def crawl(pages: int) -> list[str]:
    return list(await windlass.gather(*(fetch.trigger_and_wait(n) for n in range(pages))))


def test_children_run_for_real(windlass_env: Environment) -> None:
    assert windlass_env.run(crawl, 3).result == ["page 0", "page 1", "page 2"]


@task
def stamp() -> str:
    return windlass.now().isoformat()


@task
async def now_and_later() -> list[str]:
    return [windlass.now().isoformat(), await stamp.trigger_and_wait(delay="1d")]


def test_a_delayed_child_begins_when_its_time_has_come(windlass_env: Environment) -> None:
    first, second = windlass_env.run(now_and_later).result
    assert datetime.fromisoformat(second) - datetime.fromisoformat(first) >= timedelta(days=1)


@step(protect=True)
def charge() -> int:
    return 1


@task
def charging() -> int:
    return charge()


def test_a_protected_step_waits_for_nobody_in_a_test(
    windlass_env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    assert windlass_env.run(charging).result == 1
    assert "not marked" not in caplog.text


def test_children_are_replaced_by_stubs(windlass_env: Environment) -> None:
    windlass_env.stub(fetch, lambda page: f"stub {page}")
    assert windlass_env.run(crawl, 2).result == ["stub 0", "stub 1"]
    mock = Mock(return_value="mock")
    windlass_env.stub("fetch", mock)
    assert windlass_env.run(crawl, 1).result == ["mock"]
    mock.assert_called_once_with(0)
    windlass_env.stub(fetch, raises=ValueError("no such page"))
    run = windlass_env.run(crawl, 1)
    assert run.state == "Failed"
    with pytest.raises(RunFailedError, match="no such page"):
        _ = run.result


@step(retry=Retry(max_attempts=4, min_delay="1h", max_delay="1d", jitter="none"))
def flaky() -> str:
    calls.append(windlass.now())
    if len(calls) < 4:
        raise ConnectionError("not yet")
    return "there"


@task
def call_flaky(_: None) -> str:
    return flaky()


def test_the_pauses_of_a_retried_step_pass_by_the_clock(windlass_env: Environment) -> None:
    start = windlass_env.now
    assert windlass_env.run(call_flaky).result == "there"
    assert [at - start for at in calls] == [timedelta(hours=h) for h in (0, 1, 3, 7)]


@task
async def call_flaky_from_a_loop(_: None) -> Any:
    return await windlass.gather(asyncio.to_thread(lambda: "beside"), inner())


async def inner() -> str:
    return flaky()


def test_so_do_those_of_a_synchronous_step_that_holds_the_loop(windlass_env: Environment) -> None:
    start = windlass_env.now
    assert windlass_env.run(call_flaky_from_a_loop).result == ["beside", "there"]
    assert [at - start for at in calls] == [timedelta(hours=h) for h in (0, 1, 3, 7)]


@task(retry=Retry(max_attempts=2))
def always_fails(_: None) -> None:
    calls.append("tried")
    raise ValueError("boom")


def test_a_task_that_fails_is_retried_and_shows_its_traceback(windlass_env: Environment) -> None:
    run = windlass_env.run(always_fails)
    assert (run.state, calls) == ("Failed", ["tried", "tried"])
    with pytest.raises(RunFailedError) as told:
        _ = run.result
    assert "ValueError: boom" in str(told.value)
    assert "test_testing_kit.py" in str(told.value)


def cancel_room(room: str) -> None:
    calls.append(f"cancelled {room}")


@step(compensate=cancel_room)
def book(room: str) -> str:
    calls.append(f"booked {room}")
    return room


@task
def travel(room: str) -> None:
    book(room)
    raise PermanentError("no flight")


def test_what_a_failed_run_has_done_is_undone(windlass_env: Environment) -> None:
    run = windlass_env.run(travel, "12")
    assert run.state == "Failed"
    assert calls == ["booked 12", "cancelled 12"]


async def test_an_asynchronous_test_runs_tasks_with_its_loop_going_on(windlass_env: Environment) -> None:
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    run = await windlass_env.run_async(remind, "ada")
    ticking.cancel()
    assert run.result == "sent to ada"
    assert len(ticks) > 3
    assert windlass_env.run(remind, "bob").result == "sent to bob"


def test_a_task_may_stand_in_the_test_itself(windlass_env: Environment) -> None:
    seen: list[Waiting] = []

    @task
    def local(n: int) -> int:
        windlass.sleep_sync("2s")
        return n + len(seen)

    assert windlass_env.run(local, 1).result == 1


def test_a_payload_that_is_none_of_the_tasks_is_refused(windlass_env: Environment) -> None:
    with pytest.raises(TestingError, match="PayloadInvalid"):
        windlass_env.run(refund, "eighty")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TestingError, match=r"pip install 'windlass\[dev\]'"):
        Plane()


def test_a_control_plane_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_TEST_POSTGRES_URI", "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(TestingError, match=r"(?s)control plane of the tests has ended.*127\.0\.0\.1"):
        Plane()


async def test_the_control_plane_ends_with_the_process_that_wants_it(postgres: PostgresServer) -> None:
    code = "import os, signal; from windlass.testing.plane import Plane; p = Plane(); print(p.pid, flush=True); "
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    env = {**os.environ, "WINDLASS_TEST_POSTGRES_URI": postgres.uri()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=env)
    output, _ = await process.communicate()
    pid = int(output)

    async def is_gone() -> bool:
        return not _runs(pid)

    await eventually(is_gone)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
