"""Code that changes under a run, with the real runner: suspended, mended, resumed, and no finished step runs twice."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from tests.support.runner import code, logs_of, run_once
from tests.support.world import SHOP, World
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.services.projection import status_of
from windlass_runner import exit_codes

AGAIN = RetryPolicy(max_attempts=3, min_delay=timedelta(0), jitter="none")

ORDER = """
@step
def charge(n):
    print("charge", n)
    return n
@step
def ship(n):
    print("ship", n)
    return n
@step
def thank(n):
    print("thank", n)
    return n
@step
def tax(n):
    print("tax", n)
    return n
@task
def main():
    return [{calls}]
"""


def order(calls: str) -> Any:
    """Return a task whose code makes these calls."""
    return code(ORDER.replace("{calls}", calls), retry=AGAIN)


def apply(world: World, task: Any) -> None:
    world.cluster.tasks[(SHOP.namespace, "order")] = task


async def change_version(world: World, run_id: UUID, task: Any) -> None:
    """Let a queued run go on with other code: what an image tag that is pushed anew does."""
    (row,) = await world.database.fetch("SELECT task_version_id FROM run WHERE id = %(id)s", {"id": run_id})
    source = {"source": task.source, "id": row["task_version_id"]}
    await world.database.fetch(
        "UPDATE task_version SET spec = jsonb_set(spec::jsonb, '{source}', to_jsonb(%(source)s::text))::text"
        " WHERE id = %(id)s",
        source,
    )


async def test_changed_code_suspends_and_mended_code_resumes_without_running_finished_steps_again(
    world: World, url: str
) -> None:
    run_id = await world.submit(order("charge(1), ship(2), thank(1 / (current_run().attempt - 1))"))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    await change_version(world, run_id, order("charge(1), tax(3), ship(2), thank(4)"))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["user_failures"]) == ("Suspended", "Divergence", 1)
    message = status_of(row)["message"]
    assert "At place 2 of the task function history has step 'ship', saved by code " in message
    assert "asks for step 'tax'" in message
    assert f"windlass runs resume {run_id}" in message
    apply(world, order("charge(1), ship(2), tax(3), thank(4)"))
    await world.resumption.resume(SHOP, run_id, "order")
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", [1, 2, 3, 4])
    assert await logs_of(world, run_id) == ["charge 1", "ship 2", "tax 3", "thank 4"]


async def test_other_arguments_suspend_too_and_the_first_code_may_still_finish_the_run(world: World, url: str) -> None:
    first = order("charge(1), ship(2 / (current_run().attempt - 1))")
    run_id = await world.submit(first)
    await run_once(world, url)
    await change_version(world, run_id, order("charge(100), ship(2)"))
    await run_once(world, url)
    row = await world.get(run_id)
    assert row["state"] == "Suspended"
    assert "with other arguments" in row["message"]
    apply(world, order("charge(1), ship(2)"))
    await world.resumption.resume(SHOP, run_id, "order")
    await run_once(world, url)
    assert await logs_of(world, run_id) == ["charge 1", "ship 2"]
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_migrate_function_brings_old_history_to_new_code(world: World, url: str) -> None:
    run_id = await world.submit(order("charge(1), ship(2), tax(3), thank(4 / (current_run().attempt - 1))"))
    await run_once(world, url)
    migrate = """
def migrate(history):
    history.rename("ship", "send")
    history.insert_before("tax")
    history.drop("tax")
send = step(name="send")(ship.function)
"""
    body = order("charge(1), send(2), thank(5), tax(30)").source.replace(
        "@task\n", f"{migrate}@task(migrate=migrate)\n"
    )
    changed = code(body.removeprefix("from windlass import *\n"), retry=AGAIN)
    await change_version(world, run_id, changed)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == [1, 2, 5, 30]
    assert await logs_of(world, run_id) == ["charge 1", "ship 2", "tax 3", "thank 5", "tax 30"]
    steps = {s["key"]: (s["result"], s["replaced"]) for s in await world.runs.steps(run_id, after=0, limit=10)}
    assert steps["tax"] == ("30", True)
    assert set(steps) == {"charge", "ship", "tax", "thank"}, "the ledger keeps the keys that it has"
