"""``crash_everywhere``: what survives a kill at each boundary passes, and what does not is told of."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windlass
from windlass import Retry, step, task
from windlass.testing import CrashError, Environment, crash_everywhere

do: Callable[..., Any] = print


@pytest.fixture(autouse=True)
def _effects(windlass_env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "do", windlass_env.effects.record)


@step
def charge(order: int) -> str:
    do("charge", order, key=step.idempotency_key)
    return f"charge-{order}"


@step(retry=Retry(max_attempts=2, min_delay="1m", jitter="none"))
async def mail(text: str) -> None:
    do("mail", text)


@task
def pack(item: str) -> str:
    do_pack(item)
    return f"packed {item}"


@step
def do_pack(item: str) -> None:
    do("pack", item)


@task
async def sound(order: int) -> dict[str, Any]:
    charged = charge(order)
    await windlass.gather(mail("one"), mail("two"))
    paid = await windlass.wait_for_event("paid")
    packed = await pack.trigger_and_wait(f"item of {order}")
    return {"charged": charged, "paid": paid.payload, "packed": packed, "id": str(windlass.uuid())}


def test_a_sound_task_is_the_same_wherever_it_is_killed(windlass_env: Environment) -> None:
    """A sample of its boundaries: the example of the kit is killed at all of its own."""
    windlass_env.on_event("paid", 80)
    report = crash_everywhere(sound, 7, sample=10, seed=11)
    assert (report.boundaries, report.tried, report.seed) == (28, 10, 11)
    assert not report.not_reached
    assert str(report).startswith("killed at 10 of 28 boundaries in ")


@task
def mails_outside_of_a_step(order: int) -> str:
    charged = charge(order)
    do("mail", order)
    return charged


def test_an_effect_outside_of_a_step_is_found() -> None:
    with pytest.raises(CrashError) as told:
        crash_everywhere(mails_outside_of_a_step, 7, seed=3)
    text = str(told.value)
    assert "mails-outside-of-a-step is not the same after a crash at " in text
    assert "Effect mail(7) happens 2 times; without a crash once. It happens outside of any step" in text
    assert "killed before the call was sent: mails-outside-of-a-step, attempt 1: report the result" in text
    assert "Repeat: crash_everywhere(mails_outside_of_a_step, ..., seed=3, only=" in text
    name = text.split("only=")[1].split("'")[1]
    with pytest.raises(CrashError, match="at 1 of 1 boundaries"):
        crash_everywhere(mails_outside_of_a_step, 7, seed=3, only=name)


@task
def reads_outside_of_a_step(order: int) -> str:
    lucky = random.randrange(1 << 30)  # noqa: S311
    return f"{charge(order)} {lucky}"


def test_a_value_read_outside_of_a_step_is_found() -> None:
    with pytest.raises(CrashError) as told:
        crash_everywhere(reads_outside_of_a_step, 7, seed=3)
    assert "The result is " in str(told.value)
    assert "Two runs without any crash differ as well" in str(told.value)
    assert "windlass.now(), random() or uuid()" in str(told.value)


@task
def diverges(counter: str) -> str:
    left = int(Path(counter).read_text())
    reserve(counter, left)
    return charge(left)


@step
def reserve(counter: str, left: int) -> None:
    do("reserve", left)
    Path(counter).write_text(str(left - 1))


def test_a_stock_that_is_read_outside_of_a_step_diverges_after_a_crash(tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    with pytest.raises(CrashError) as told:
        crash_everywhere(diverges, str(stock), reset=lambda: stock.write_text("5") and None)
    assert "The run is Suspended" in str(told.value)
    assert "Two runs without any crash" not in str(told.value)


@task
def charges_without_a_key(order: int) -> None:
    charge_blindly(order)


@step
def charge_blindly(order: int) -> None:
    do("charge", order)


def test_a_body_that_is_cut_off_may_repeat_its_effects_unless_they_must_be_exactly_one() -> None:
    crash_everywhere(charges_without_a_key, 7)
    with pytest.raises(CrashError, match=r"Give the receiver step\.idempotency_key"):
        crash_everywhere(charges_without_a_key, 7, exactly_once=True)


@task
def counts(folder: str) -> None:
    add(folder)
    Path(folder, f"outside-{time.time_ns()}").touch()


@step
def add(folder: str) -> None:
    Path(folder, f"{time.time_ns()}").touch()


def test_effects_are_counted_by_a_function_of_the_tests_own(tmp_path: Path) -> None:
    folder = tmp_path / "effects"

    def reset() -> None:
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()

    with pytest.raises(CrashError, match=r"The effects are 3; without a crash they are 2\."):
        crash_everywhere(counts, str(folder), effects=lambda: len(list(folder.iterdir())), reset=reset)


@task
def fails(_: None) -> None:
    charge(1)
    raise windlass.PermanentError("no")


@step
def lucky() -> str:
    if windlass.current_run().attempt == 1:
        raise ConnectionError("not yet")
    do("lucky")
    return "there"


@task(retry=Retry(max_attempts=3))
def second_time_lucky(_: None) -> str:
    return lucky()


def test_a_step_that_failed_may_run_again_with_the_next_attempt() -> None:
    report = crash_everywhere(second_time_lucky)
    assert report.tried == report.boundaries


@task
def leaves(_: None) -> None:
    os._exit(3)


def test_a_run_that_fails_must_fail_in_the_same_way() -> None:
    assert crash_everywhere(fails).boundaries > 4
    assert crash_everywhere(leaves).boundaries == 0
