"""Runs that ask people, with the real runner: the process ends, a decision starts another, and the code reads it."""

import json

from tests.support.runner import code, logs_of, run_once
from tests.support.world import SHOP, World
from windlass_operator.services.approvals import Verdict
from windlass_runner import exit_codes

BODY = """
@step
def charge():
    print("charged")
    return 80
@task
async def main():
    amount = charge()
    decision = await wait_for_approval(f"Refund {amount} EUR?", timeout="7d", details={"order": 7})
    return [decision.approved, decision.by, decision.comment, decision.at.isoformat()]
"""


async def test_a_run_asks_without_a_process_and_goes_on_with_the_answer(world: World, url: str) -> None:
    run_id = await world.submit(code(BODY))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForApproval")
    await world.approval_resources.make_and_show()
    ((found,), _) = await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9)
    assert (found.question, found.details) == ("Refund 80 EUR?", '{"order":7}')
    body = world.approval_objects.decide(found.name, "Refused", "alice", "paid already")
    await world.approval_resources.observe(body)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    decided = await world.approvals.get(SHOP, found.name)
    assert decided.over_at is not None
    assert json.loads(row["result"]) == [False, "alice", "paid already", decided.over_at.isoformat()]
    assert await logs_of(world, run_id) == ["charged"]
    assert (row["user_failures"], row["infra_failures"]) == (0, 0)


async def test_synchronous_code_asks_and_may_be_told_by_the_api(world: World, url: str) -> None:
    body = "@task\ndef main():\n    return wait_for_approval_sync('Go on?', name='go').approved\n"
    run_id = await world.submit(code(body))
    await run_once(world, url)
    ((found,), _) = await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9)
    assert found.key == "go"
    await world.approvals.decide(found, Verdict("Approved", "alice", None, "api"))
    await run_once(world, url)
    assert json.loads((await world.get(run_id))["result"]) is True
