"""Steps that fail, with the real runner: tries, pauses without a pod, and what a killed pod leaves behind."""

import json

from tests.support.runner import code, run_once
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy


async def ring(world: World) -> None:
    """Let the time of every wait and retry come."""
    await world.database.fetch("UPDATE wait SET due_at = ledger_now()")
    await world.waits.fire_due()
    await world.database.fetch("UPDATE queue_entry SET available_at = ledger_now()")


async def test_a_long_pause_between_two_tries_holds_no_pod(world: World, url: str, tmp_path: object) -> None:
    body = f"""
import os
from windlass import Retry
@step(retry=Retry(max_attempts=3, min_delay="10m", max_delay="10m", jitter="none"))
def charge():
    with open("{tmp_path}/tries", "a") as f:
        print(step.idempotency_key, file=f)
    if len(open("{tmp_path}/tries").readlines()) < 2:
        raise ConnectionError("down")
    return "paid"
@task
def main():
    return charge()
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForTimer")
    await ring(world)
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["result"], row["user_failures"]) == ("Succeeded", '"paid"', 0)
    steps = {step["key"]: step for step in await world.runs.steps(run_id, after=0, limit=10)}
    assert (steps["charge"]["state"], steps["charge"]["tries"]) == ("succeeded", 2)
    assert (steps["charge~try1"]["state"], steps["charge~try1"]["kind"]) == ("succeeded", "sleep")
    keys = (await _read(tmp_path)).split()
    assert len(keys) == 2
    assert len(set(keys)) == 1, "both tries hand the other system one key"


async def test_a_caught_failure_leads_the_same_way_after_a_kill(world: World, url: str) -> None:
    body = """
import os, signal
from windlass import current_run
class CardDeclined(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code
@step
def charge():
    if current_run().attempt == 1:
        raise CardDeclined("no money")
    return "charged twice"
@step
def transfer(code):
    return "transferred because of " + code
@task
def main():
    try:
        paid = charge()
    except CardDeclined as error:
        paid = transfer(error.code)
    if current_run().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return paid
"""
    run_id = await world.submit(code(body, retry=RetryPolicy(max_attempts=2, jitter="none")))
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Queued"
    await ring(world)
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", "transferred because of no money")


async def test_a_failure_that_ended_the_attempt_is_tried_again_with_the_run(world: World, url: str) -> None:
    body = """
from windlass import current_run
@step
async def fetch(n):
    if current_run().attempt == 1:
        raise ConnectionError("down")
    return n
@task
async def main():
    return await gather(*(fetch(n) for n in range(20)))
"""
    run_id = await world.submit(code(body, retry=RetryPolicy(max_attempts=2, jitter="none")))
    await run_once(world, url)
    await ring(world)
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", list(range(20)))


async def _read(folder: object) -> str:
    import asyncio
    from pathlib import Path

    return await asyncio.to_thread(Path(str(folder), "tries").read_text)
