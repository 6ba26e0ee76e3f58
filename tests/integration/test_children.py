"""Runs that start runs, with the real runner: the parent's process ends and dies, and each child runs once."""

import json
import os
import signal
from dataclasses import replace
from uuid import UUID

from tests.support.eventually import eventually
from tests.support.runner import code, ended, logs_of, run_once, runner
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes

PARTS = """
@task
def part(n):
    print(f"part {n}")
    if n == 2:
        raise PermanentError("two is not possible")
    return {"n": n, "text": "x" * (100_000 if n == 3 else 1)}
"""


async def follow(world: World) -> None:
    """Do what follows from the ends so far."""
    while await world.endings.follow() is not None:
        pass


async def run_next(world: World, url: str) -> int:
    """Run a runner to its end, in a pod that no other had; return its exit code."""
    exit_code, _ = await run_once(world, url)
    world.cluster.pods.popitem()
    return exit_code


async def submit(world: World, body: str) -> UUID:
    """Accept a run of ``main`` in a module that has the tasks ``main`` and ``part``."""
    source = PARTS + body
    world.cluster.tasks["shop", "part"] = replace(code(source), entrypoint="job:part")
    return await world.submit(code(source, retry=RetryPolicy(max_attempts=2, jitter="none")))


async def children_of(world: World, run_id: UUID) -> list[UUID]:
    rows = await world.database.fetch("SELECT id FROM run WHERE parent_id = %(id)s ORDER BY id", {"id": run_id})
    return [row["id"] for row in rows]


async def test_a_parent_waits_for_a_batch_without_a_process_and_gets_results_failures_and_large_values(
    world: World, url: str
) -> None:
    run_id = await submit(
        world,
        """
@task
async def main():
    done = await part.batch_trigger_and_wait([1, 2, 3])
    print([r.ok for r in done])
    failed = [[r.run_id, r.error.failure_class, r.error.failure_message] for r in done if not r.ok]
    return [len(r.value["text"]) if r.ok else failed[0] for r in done]
""",
    )
    assert await run_next(world, url) == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForRun")
    children = await children_of(world, run_id)
    assert len(children) == 3
    for _ in children:
        assert (await world.get(run_id))["state"] == "Waiting"
        await run_next(world, url)
        await follow(world)
    assert (await world.get(run_id))["state"] == "Queued"
    assert await run_next(world, url) == exit_codes.DONE
    row = await world.get(run_id)
    assert row["state"] == "Succeeded", row["error"]
    assert json.loads(row["result"]) == [1, [str(children[1]), "permanent", "two is not possible"], 100_000]
    assert [await logs_of(world, child) for child in children] == [["part 1"], ["part 2"], ["part 3"]]
    assert [a["outcome"] for a in await world.runs.attempts(run_id)] == ["Waiting", "Succeeded"]


async def test_a_parent_that_is_killed_between_its_calls_starts_no_child_twice(world: World, url: str) -> None:
    run_id = await submit(
        world,
        """
import os, time
@task
def main():
    first = part.trigger_sync(1)
    print(os.getppid(), os.getpid())
    while current_run().attempt == 1:
        time.sleep(0.05)
    try:
        part.trigger_and_wait_sync(2)
    except RunFailedError as error:
        return [first.id, error.run_id, error.state]
""",
    )
    async with runner(world, url) as process:
        [pids] = await eventually(lambda: logs_of(world, run_id), lambda lines: len(lines) == 1)
        process.kill()
        await ended(process)
    for pid in pids.split():  # a pod's end takes them down with process 1
        os.kill(int(pid), signal.SIGKILL)
    world.cluster.pods.popitem()
    [first] = await children_of(world, run_id)
    [attempt] = await world.runs.attempts(run_id)
    assert await world.attempts.lose(attempt["id"], reason="PodDeleted", message="")
    await run_next(world, url)
    assert (await world.get(run_id))["state"] == "Waiting"
    children = await children_of(world, run_id)
    assert len(children) == 2
    assert children[0] == first
    for _ in children:
        await run_next(world, url)
        await follow(world)
    await run_next(world, url)
    row = await world.get(run_id)
    assert row["state"] == "Succeeded", row["error"]
    assert json.loads(row["result"]) == [str(first), str(children[1]), "Failed"]
    assert [await logs_of(world, child) for child in children] == [["part 1"], ["part 2"]]
    assert len(await children_of(world, run_id)) == 2


async def test_a_gather_of_children_wakes_its_parent_once(world: World, url: str) -> None:
    run_id = await submit(
        world,
        """
@task
async def main():
    return [r["n"] for r in await gather(*(part.trigger_and_wait(n) for n in (1, 4, 5)))]
""",
    )
    await run_next(world, url)
    for _ in range(3):
        await run_next(world, url)
        await follow(world)
    await run_next(world, url)
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", [1, 4, 5])
    assert [a["outcome"] for a in await world.runs.attempts(run_id)] == ["Waiting", "Succeeded"]


async def test_a_task_that_is_not_there_is_an_error_in_the_parents_code(world: World, url: str) -> None:
    run_id = await submit(
        world,
        """
@task
async def nobody():
    pass
@task
async def main():
    try:
        await nobody.trigger_and_wait(1)
    except ApiError as error:
        return [error.code, error.field]
""",
    )
    await run_next(world, url)
    row = await eventually(lambda: world.get(run_id), lambda row: row["state"] == "Succeeded")
    assert json.loads(row["result"]) == ["TaskNotFound", "task"]


async def test_a_failed_child_is_run_again_when_its_parent_is_retried_and_a_finished_one_is_not(
    world: World, url: str
) -> None:
    run_id = await submit(
        world,
        """
@task
async def main():
    one, other = await gather(part.trigger_and_wait(1), part.trigger_and_wait(2))
    return [one["n"], other["n"]]
""",
    )
    assert await run_next(world, url) == exit_codes.DONE
    for _ in range(2):
        await run_next(world, url)
        await follow(world)
    await run_next(world, url)
    assert (await world.get(run_id))["state"] == "Queued"
    await world.database.fetch("UPDATE queue_entry SET available_at = ledger_now()")
    world.cluster.tasks["shop", "part"] = replace(code(PARTS.replace("if n == 2", "if n == 3")), entrypoint="job:part")
    assert await run_next(world, url) == exit_codes.DONE
    first, failed, again = await children_of(world, run_id)
    await run_next(world, url)
    await follow(world)
    await run_next(world, url)
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", [1, 2])
    assert [(await world.get(one))["state"] for one in (first, failed, again)] == ["Succeeded", "Failed", "Succeeded"]
