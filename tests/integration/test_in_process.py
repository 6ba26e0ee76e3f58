"""Runs that share one process of a pool's pod, against the real API and a real ledger."""

import asyncio
import json
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.integration.test_reusable_pods import OFTEN, runner
from tests.support.eventually import eventually
from tests.support.runner import beat_often, code, logs_of, said
from tests.support.world import SHOP, World
from windlass_runner import exit_codes

IN_PROCESS = {"WINDLASS_EXECUTION": "InProcess"}
STUBBORN = """
import asyncio, os, time
@task
async def main(kind=None):
    print("on it", os.getpid(), flush=True)
    if kind is None:
        return os.getpid()
    if kind == "blocks":
        time.sleep(60)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if kind == "yields":
                raise
"""
SYNC = "import os, threading, time\n"


async def ended(world: World, run_id: UUID, state: str = "Succeeded") -> Any:
    """Wait for the end of a run, and return its result."""
    row = await eventually(partial(world.get, run_id), lambda row: row["finished_at"] is not None, seconds=30)
    assert row["state"] == state, row
    return row["result"] and json.loads(row["result"])


async def all_ended(world: World, ids: list[UUID]) -> list[Any]:
    """Wait for the ends of runs, and return their results."""
    return [await ended(world, run_id) for run_id in ids]


async def test_async_runs_share_one_process_and_each_has_its_own_steps_and_log(world: World, url: str) -> None:
    task = code(
        """
import asyncio, os
from windlass import current_run
STARTS = []
@step
async def charge(n):
    print("charging", n)
    await asyncio.sleep(0.01)
    return n
@task
async def main(n=0):
    STARTS.append(n)
    print("run", n)
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(charge(n)), group.create_task(charge(n + 1000))]
    return [os.getpid(), len(STARTS), [one.result() for one in both], current_run().id]
"""
    )
    ids = [await world.submit(task, payload=n) for n in range(40)]
    pod = await world.reusable_pod(task, slots=8)
    async with runner(url, pod, **IN_PROCESS):
        results = await all_ended(world, ids)
    assert len({pid for pid, *_ in results}) == 1
    assert max(starts for _, starts, *_ in results) == 40, "globals are shared"
    assert [steps for _, _, steps, _ in results] == [[n, n + 1000] for n in range(40)]
    assert [run_id for *_, run_id in results] == [str(run_id) for run_id in ids]
    for n, run_id in enumerate(ids):
        assert sorted(await logs_of(world, run_id)) == sorted([f"run {n}", f"charging {n}", f"charging {n + 1000}"])


async def test_synchronous_runs_have_a_thread_each_and_their_steps_and_lines_stay_apart(world: World, url: str) -> None:
    task = code(
        SYNC
        + """
ALL_HERE = threading.Barrier(6)
@step
def part(n):
    print("part", n)
    return n
@task
def main(n):
    ALL_HERE.wait(20)
    return [part(n), part(-n), os.getpid()]
"""
    )
    ids = [await world.submit(task, payload=n) for n in range(1, 7)]
    pod = await world.reusable_pod(task, slots=6)
    async with runner(url, pod, **IN_PROCESS):
        results = await all_ended(world, ids)
    assert [parts for *parts, _ in results] == [[n, -n] for n in range(1, 7)]
    assert len({pid for *_, pid in results}) == 1
    for n, run_id in enumerate(ids, start=1):
        assert await logs_of(world, run_id) == [f"part {n}", f"part {-n}"]


async def test_failures_are_each_runs_own(world: World, url: str) -> None:
    task = code(
        """
import asyncio, sys
@task
async def main(what):
    await asyncio.sleep(0.05)
    if what == "exit":
        sys.exit(3)
    if what == "in a task":
        await asyncio.create_task(leave())
    if what == "raise":
        raise PermanentError("no")
    return what
async def leave():
    sys.exit(4)
"""
    )
    good = [await world.submit(task, payload="fine") for _ in range(5)]
    bad = [await world.submit(task, payload=what) for what in ("exit", "in a task", "raise")]
    pod = await world.reusable_pod(task, slots=8)
    async with runner(url, pod, **IN_PROCESS):
        assert await all_ended(world, good) == ["fine"] * 5
        for run_id in bad:
            await ended(world, run_id, "Failed")
    messages = [json.loads((await world.get(run_id))["error"])["message"] for run_id in bad]
    assert messages == ["The code called sys.exit(3).", "The code called sys.exit(4).", "no"]


async def test_a_run_that_waits_leaves_the_process_and_comes_back(world: World, url: str) -> None:
    task = code(
        """
@step
async def first():
    return "first"
@task
async def main():
    before = await first()
    event = await wait_for_event("paid", timeout="7d")
    return [before, event.payload]
"""
    )
    sync = code(
        """
@task
def main():
    return wait_for_event_sync("paid", timeout="7d").payload
"""
    )
    for kind, result in ((task, ["first", 7]), (sync, 7)):
        ids = [await world.submit(kind, name=f"order-{result == 7}".lower()) for _ in range(3)]
        pod = await world.reusable_pod(kind, slots=1)
        async with runner(url, pod, **IN_PROCESS):
            for run_id in ids:
                await eventually(partial(world.get, run_id), lambda row: row["state"] == "Waiting")
            assert (await world.events.send(SHOP, "paid", 7, str(ids[0]))).runs == 3
            assert await all_ended(world, ids) == [result] * 3
    assert await world.database.fetch("SELECT 1 FROM attempt WHERE outcome NOT IN ('Succeeded', 'Waiting')") == []


async def test_a_cancelled_run_cleans_up_and_the_others_go_on(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    task = code(STUBBORN)
    pod = await world.reusable_pod(task, slots=4)
    run_id = await world.submit(task, payload="yields")
    async with runner(url, pod, **IN_PROCESS):
        pid = await ended(world, await world.submit(task))
        await said(world, run_id, f"on it {pid}")
        await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
        await ended(world, run_id, "Cancelled")
        assert await ended(world, await world.submit(task)) == pid


@pytest.mark.parametrize("kind", ["swallows", "blocks"])
async def test_code_that_does_not_end_loses_its_process_and_its_neighbours_lose_nothing(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    beat_often(monkeypatch)
    monkeypatch.setattr("windlass_operator.config.CANCEL_GRACE", timedelta(seconds=1))
    task = code(STUBBORN, retry=OFTEN)
    pod = await world.reusable_pod(task, slots=4)
    async with runner(url, pod, WINDLASS_GRACE="1", **IN_PROCESS):
        pid = await ended(world, await world.submit(task))
        neighbour = await world.submit(task, payload="yields")
        await said(world, neighbour, f"on it {pid}")
        run_id = await world.submit(task, payload=kind)
        await said(world, run_id, f"on it {pid}")
        await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
        await ended(world, run_id, "Cancelled")
        later = await ended(world, await world.submit(task))
        assert later != pid
        if kind == "blocks":  # the neighbour cannot go on where it is
            await said(world, neighbour, f"on it {later}")
        else:
            assert await logs_of(world, neighbour) == [f"on it {pid}"]
        await world.runs.cancel(neighbour, reason="Cancelled", message="by a test")
        await ended(world, neighbour, "Cancelled")
    row = await world.get(neighbour)
    assert (row["user_failures"], row["infra_failures"]) == (0, 0)


async def test_an_attempt_that_takes_too_long_is_timed_out(world: World, url: str) -> None:
    task = code(STUBBORN, attempt_timeout=timedelta(seconds=1))
    run_id = await world.submit(task, payload="yields")
    pod = await world.reusable_pod(task, slots=4)
    async with runner(url, pod, **IN_PROCESS):
        await ended(world, run_id, "Failed")
    assert json.loads((await world.get(run_id))["error"])["type"] == "TimedOut"


async def test_sigterm_hands_everything_back_after_the_step_that_runs(world: World, url: str, tmp_path: Path) -> None:
    task = code(
        """
import asyncio, os
@step
async def first(file):
    print("on it", flush=True)
    while not os.path.exists(file):
        await asyncio.sleep(0.01)
    return 1
@step
async def second():
    await asyncio.sleep(60)
@task
async def main(file):
    return [await first(file), await second()]
""",
        retry=OFTEN,
    )
    file = tmp_path / "go on"
    ids = [await world.submit(task, payload=str(file)) for _ in range(4)]
    pod = await world.reusable_pod(task, slots=4)
    async with runner(url, pod, **IN_PROCESS) as process:
        for run_id in ids:
            await said(world, run_id, "on it")
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        file.touch()
        assert await asyncio.wait_for(process.wait(), 30) == exit_codes.DONE
    rows = await world.database.fetch("SELECT state, user_failures, infra_failures FROM run")
    assert {tuple(row.values()) for row in rows} == {("Queued", 0, 0)}
    steps = await world.database.fetch("SELECT key, state FROM step")
    assert [(row["key"], row["state"]) for row in steps] == [("first", "succeeded")] * 4


async def test_a_process_that_one_run_ends_is_charged_to_it_and_one_of_several_to_infrastructure(
    world: World, url: str
) -> None:
    task = code(
        """
import asyncio, os
from windlass import current_run
@task
async def main(what):
    kills, alone = what in ("alone", "together"), what == "alone"
    print("on it", flush=True)
    if kills and current_run().attempt == 1:
        await asyncio.sleep(0.5)
        os._exit(3)
    if alone is False and current_run().attempt == 1:
        await asyncio.sleep(60)
    return current_run().attempt
""",
        retry=OFTEN,
    )
    pod = await world.reusable_pod(task, slots=4)
    async with runner(url, pod, **IN_PROCESS) as process:
        alone = await world.submit(task, payload="alone")
        assert await ended(world, alone) == 2
        others = [await world.submit(task, payload="other") for _ in range(2)]
        for run_id in others:
            await said(world, run_id, "on it")
        together = await world.submit(task, payload="together")
        assert await all_ended(world, [together, *others]) == [2, 2, 2]
        assert process.returncode is None
    failures = "SELECT user_failures, infra_failures FROM run WHERE id = %(id)s"
    [row] = await world.database.fetch(failures, {"id": alone})
    assert tuple(row.values()) == (1, 0)
    for run_id in (together, *others):
        [row] = await world.database.fetch(failures, {"id": run_id})
        assert tuple(row.values()) == (0, 1)


async def test_after_so_many_runs_the_process_is_replaced(world: World, url: str) -> None:
    task = code("import os\n@task\nasync def main():\n    return os.getpid()\n")
    pod = await world.reusable_pod(task, slots=1)
    async with runner(url, pod, WINDLASS_MAX_RUNS_PER_PROCESS="3", **IN_PROCESS):
        pids = [await ended(world, await world.submit(task)) for _ in range(8)]
    assert len(set(pids[:3])) == len(set(pids[3:6])) == len(set(pids[6:])) == 1
    assert len(set(pids)) == 3


async def test_a_module_that_does_not_import_fails_its_own_runs(world: World, url: str) -> None:
    bad = code("raise RuntimeError('not today')\n")
    pod = await world.reusable_pod(bad, slots=2)
    run_id = await world.submit(bad)
    async with runner(url, pod, **IN_PROCESS):
        await ended(world, run_id, "Failed")
    assert "not today" in json.loads((await world.get(run_id))["error"])["message"]
