"""Steps that are undone by the real runner, on the real API and a real ledger: each effect once, in reverse order."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.eventually import eventually
from tests.support.runner import beat_often, code, run_once, runner, said
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes

SALE = """
import asyncio, os, pathlib, time
WORLD = pathlib.Path({place!r})
def effect(text):
    with WORLD.open("a") as file:
        file.write(text + "\\n")
def refund(result, order):
    effect("refund " + result["id"] + " of " + str(order["id"]))
async def unship(order):
    effect("unship " + str(order["id"]))
    await asyncio.sleep(0)
    {between}
@step(compensate=refund)
def charge(order):
    effect("charge")
    return {{"id": "ch-7"}}
@step(compensate=unship)
async def ship(order):
    effect("ship")
@step
async def look():
    effect("look")
@task
async def main(order):
    charge(order)
    await look()
    await ship(order)
    {then}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "effects"


@pytest.fixture
def _beats(monkeypatch: pytest.MonkeyPatch) -> None:
    beat_often(monkeypatch)


def sale(place: Path, then: str, between: str = "pass") -> str:
    return SALE.format(place=str(place), then=then, between=between)


def effects(place: Path) -> list[str]:
    return place.read_text().splitlines() if place.exists() else []


async def submit(world: World, body: str, **changes: object) -> UUID:
    return await world.submit(code(body, **changes), payload={"id": 7})


async def test_a_run_that_fails_undoes_its_finished_steps_in_reverse_order_each_once(
    world: World, url: str, place: Path
) -> None:
    run_id = await submit(world, sale(place, "raise ValueError('no stock')"))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    assert (await world.get(run_id))["state"] == "Compensating"
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place) == ["charge", "look", "ship", "unship 7", "refund ch-7 of 7"]
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["message"]) == ("Failed", "AttemptsExhausted", "no stock")
    steps = [(s["key"], s["name"], s["state"]) for s in await world.runs.steps(run_id, after=0, limit=10)]
    assert steps[-2:] == [
        ("compensate/ship", "compensate ship", "succeeded"), ("compensate/charge", "compensate charge", "succeeded"),
    ]  # fmt: skip


async def test_a_runner_that_is_killed_between_two_compensations_repeats_none(
    world: World, url: str, place: Path
) -> None:
    """The pod dies when the first one is saved and the second has not begun."""
    held = "stop, child = (WORLD.with_suffix(s) for s in ('.stop', '.child'))\n    child.write_text(str(os.getpid()))\n"
    held += "    while stop.exists(): time.sleep(0.01)\n    "
    body = sale(place, "raise ValueError('no stock')").replace('effect("refund "', held + 'effect("refund "')
    stop, child = place.with_suffix(".stop"), place.with_suffix(".child")
    stop.touch()
    run_id = await submit(world, body)
    await run_once(world, url)
    async with runner(world, url) as process:
        await eventually(lambda: _keys(world, run_id), lambda keys: "compensate/ship" in keys)
        await eventually(lambda: asyncio.to_thread(effects, child))
        process.kill()
        os.kill(int(child.read_text()), signal.SIGKILL)  # in a pod nothing outlives process 1
        await process.wait()
    (attempt,) = await world.database.fetch("SELECT id FROM attempt WHERE closed_at IS NULL")
    assert await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
    stop.unlink()
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place)[3:] == ["unship 7", "refund ch-7 of 7"]
    row = await world.get(run_id)
    assert (row["state"], row["compensation_failures"]) == ("Failed", 1)


async def _keys(world: World, run_id: UUID) -> list[str]:
    steps = await world.runs.steps(run_id, after=0, limit=100)
    return [step["key"] for step in steps if step["state"] == "succeeded"]


@pytest.mark.usefixtures("_beats")
async def test_a_run_that_is_cancelled_while_it_runs_undoes_and_is_then_cancelled(
    world: World, url: str, place: Path
) -> None:
    run_id = await submit(world, sale(place, "print('on it', flush=True)\n    await asyncio.sleep(60)"))
    async with runner(world, url) as process:
        await said(world, run_id, "on it")
        await world.runs.cancel(run_id, reason="Cancelled", message="changed my mind")
        await asyncio.wait_for(process.wait(), 20)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Compensating", "Cancelled")
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place)[3:] == ["unship 7", "refund ch-7 of 7"]
    assert (await world.get(run_id))["state"] == "Cancelled"


async def test_a_run_that_is_cancelled_while_it_waits_for_its_retry_undoes_and_is_then_cancelled(
    world: World, url: str, place: Path
) -> None:
    later = RetryPolicy(max_attempts=2, min_delay=timedelta(hours=1), max_delay=timedelta(hours=1), jitter="none")
    run_id = await submit(world, sale(place, "raise ValueError('no stock')"), retry=later)
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Queued"
    assert await world.runs.cancel(run_id, reason="Cancelled", message="changed my mind") == "Compensating"
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place)[3:] == ["unship 7", "refund ch-7 of 7"]
    row = await world.get(run_id)
    assert (row["state"], row["message"]) == ("Cancelled", "changed my mind")


async def test_a_run_whose_time_is_used_up_undoes_and_has_timed_out(world: World, url: str, place: Path) -> None:
    again = RetryPolicy(max_attempts=2, min_delay=timedelta(0))
    then = "if current_run().attempt == 1: raise ValueError\n    await asyncio.sleep(600)"
    run_id = await submit(world, sale(place, then, between="time.sleep(0.3)"), timeout=timedelta(hours=1), retry=again)
    await run_once(world, url)
    await world.database.fetch("UPDATE run SET running_ms = 3600000 RETURNING id")  # an hour has passed
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Compensating"
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place)[3:] == ["unship 7", "refund ch-7 of 7"]
    assert (await world.get(run_id))["state"] == "TimedOut"


async def test_a_compensation_that_crashes_its_process_is_tried_again(world: World, url: str, place: Path) -> None:
    crash = "crash = WORLD.with_suffix('.crash')\n    import os\n    if not crash.exists(): crash.touch(); os._exit(9)"
    run_id = await submit(world, sale(place, "raise ValueError('no stock')", between=crash))
    await run_once(world, url)
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["compensation_failures"]) == ("Compensating", "AttemptsExhausted", 1)
    await eventually(lambda: _tried_again(world, url, run_id), lambda state: state == "Failed")
    assert effects(place)[3:] == ["unship 7", "unship 7", "refund ch-7 of 7"], "its effect came before its checkpoint"


async def _tried_again(world: World, url: str, run_id: UUID) -> str:
    await world.database.fetch("UPDATE queue_entry SET available_at = ledger_now() RETURNING run_id")
    await run_once(world, url)
    return str((await world.get(run_id))["state"])


async def test_a_compensation_that_can_never_work_ends_the_run_and_is_named(
    world: World, url: str, place: Path
) -> None:
    body = sale(place, "raise ValueError('no stock')", between="raise PermanentError('the parcel is at sea')")
    run_id = await submit(world, body)
    await run_once(world, url)
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "CompensationFailed")
    assert row["message"] == (
        "Not undone: 'ship', 'charge'. PermanentError: the parcel is at sea. "
        "The run ended for AttemptsExhausted: no stock"
    )


async def test_more_to_undo_than_a_claim_carries_is_fetched(world: World, url: str, place: Path) -> None:
    body = f"""
import pathlib
def undo(result, n):
    with pathlib.Path({str(place)!r}).open("a") as file:
        file.write(f"{{n}} {{len(result)}}\\n")
@step(compensate=undo)
def do(n):
    return "x" * 60_000
@task
def main():
    for n in range(25):
        do(n)
    raise ValueError
"""
    run_id = await submit(world, body.replace("main()", "main(order)"))
    await run_once(world, url)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert effects(place) == [f"{n} 60000" for n in reversed(range(25))]
    assert (await world.get(run_id))["state"] == "Failed"
