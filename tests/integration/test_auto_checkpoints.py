"""``@task(checkpoint="auto")`` with the real runner: undecorated code that is killed goes on where it was."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.support.runner import code, run_once
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy

TWICE = RetryPolicy(max_attempts=2, jitter="none")


async def ring(world: World) -> None:
    """Let the time of every wait and retry come."""
    await world.database.fetch("UPDATE wait SET due_at = ledger_now()")
    await world.waits.fire_due()
    await world.database.fetch("UPDATE queue_entry SET available_at = ledger_now()")


async def keys(world: World, run_id: Any) -> list[str]:
    return [step["key"] for step in await world.runs.steps(run_id, after=0, limit=10)]


async def test_a_run_killed_between_two_awaits_goes_on_after_the_first(world: World, url: str, tmp_path: Path) -> None:
    body = f"""
import os, signal
async def charge(n: int) -> dict:
    with open("{tmp_path}/effects", "a") as f:
        print(f"charge {{n}} {{step.idempotency_key}}", file=f)
    return {{"paid": n}}
class Post:
    async def ship(self, what: dict) -> str:
        with open("{tmp_path}/effects", "a") as f:
            print("ship", file=f)
        return f"shipped {{what['paid']}}"
@task(checkpoint="auto")
async def main(n: int) -> str:
    post = Post()
    receipt = await charge(n)
    if current_run().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    await sleep("1h")
    return await post.ship(receipt)
"""
    run_id = await world.submit(code(body, retry=TWICE), payload=7)
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Queued"
    await ring(world)
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "Waiting"
    await ring(world)
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", "shipped 7")
    effects = (await asyncio.to_thread((tmp_path / "effects").read_text)).splitlines()
    assert [line.split()[0] for line in effects] == ["charge", "ship"]
    assert await keys(world, run_id) == ["charge", "sleep", "post.ship"]


async def test_a_module_that_cannot_have_it_fails_with_the_line_and_the_way_out(world: World, url: str) -> None:
    body = """
@task(checkpoint="auto")
async def main():
    made = [sleep("1h")]
    await made[0]
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "EntrypointImportFailed")
    assert "job.py:6: checkpoint='auto': `await made[0]` waits for something" in json.loads(row["error"])["message"]


async def test_other_code_under_a_run_is_noticed(world: World, url: str) -> None:
    body = """
import os, signal
async def charge(n): return n
@task(checkpoint="auto")
async def main():
    paid = await charge(current_run().attempt)
    if current_run().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    run_id = await world.submit(code(body, retry=TWICE))
    await run_once(world, url)
    await ring(world)
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Suspended", "Divergence")
