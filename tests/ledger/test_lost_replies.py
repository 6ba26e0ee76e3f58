"""What was committed although the reply was lost is not done twice."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.failing import lose_reply
from tests.support.world import SHOP, World, a_step, a_task
from windlass import protocol
from windlass_operator.ledger.database import Database
from windlass_operator.services.submitted import Submission


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def test_a_run_gets_one_pod_although_the_reply_to_its_plan_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await world.submit()
    struck = lose_reply(monkeypatch, tmp_path, "ledger commit of plan_pod|1")
    await world.pods.start_due()
    assert struck.exists()
    assert len(world.cluster.pods) == 1
    rows = await world.database.fetch("SELECT state FROM pod")
    assert [row["state"] for row in rows] == ["Created"]


async def test_a_run_is_accepted_once_although_the_reply_to_its_commit_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    struck = lose_reply(monkeypatch, tmp_path, "ledger commit of get_new|1")
    run_id = await world.submit()
    assert struck.exists()
    rows = await world.database.fetch("SELECT id FROM run")
    assert [row["id"] for row in rows] == [run_id]


async def test_a_run_of_a_known_version_is_accepted_once_although_the_reply_to_its_statement_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    await world.know("order")
    woken: list[Mapping[str, int]] = []
    world.database.on_startable(woken.append)
    struck = lose_reply(monkeypatch, tmp_path, "ledger insert_runs|1")
    answer = await world.submissions.trigger(SHOP, Submission(task="order"))
    assert struck.exists()
    assert not answer.deduplicated
    assert [list(keys.values()) for keys in woken] == [[0]], "whoever waits for work is to look"
    rows = await world.database.fetch("SELECT id FROM run")
    assert [row["id"] for row in rows] == [answer.run_id]


async def test_a_claim_takes_one_run_although_the_reply_to_its_commit_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await world.submit(payload=1)
    await world.submit(payload=2)
    struck = lose_reply(monkeypatch, tmp_path, "ledger commit of pods_claimed|1")
    attempts = await world.claim()
    assert struck.exists()
    assert len(attempts) == 1
    rows = await world.database.fetch("SELECT state FROM run ORDER BY state")
    assert [row["state"] for row in rows] == ["Queued", "Running"]
    await world.steps.save(attempts[0].token, protocol.SaveStepsRequest(steps=[a_step("first")]))
