"""``windlass-operator doctor --verify-ledger`` as people and programs meet it."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.world import World
from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import CHECKS, WHOLE


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def _doctor(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "WINDLASS_POSTGRES_URI": uri, "WINDLASS_API_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "windlass_operator.cli", "doctor", "--verify-ledger", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


async def test_a_sound_ledger_is_a_line_for_each_rule_and_exit_code_0(world: World, ledger_uri: str) -> None:
    await world.submit()
    done = _doctor(ledger_uri)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * (len(CHECKS) + len(WHOLE))
    assert lines[-1].startswith("1 runs in ")
    assert lines[-1].endswith("no violations.")
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_broken_ledger_names_the_run_what_is_wrong_and_what_to_do(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    await world.database.fetch("DELETE FROM queue_entry")
    done = _doctor(ledger_uri)
    assert done.returncode == 1
    failed = [line.split()[1:4] for line in done.stdout.splitlines() if line.startswith("fail")]
    assert failed == [["I1", "queue_entries", "1"]]
    assert f"run {run_id}: It is Queued and in no queue." in done.stdout
    assert "→ It will not end by itself" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": 1 violation.")


async def test_programs_get_the_same_as_json(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    await world.database.fetch("DELETE FROM queue_entry")
    done = _doctor(ledger_uri, "--json", "--page", "1")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["runs"]) == (1, False, 1)
    assert {check["check"]: check["violations"] for check in told["checks"]}["queue_entries"] == 1
    assert [(found["code"], found["run_id"], bool(found["mend"])) for found in told["violations"]] == [
        ("I1", str(run_id), True)
    ]


async def test_many_violations_are_counted_and_the_first_ones_are_named(world: World, ledger_uri: str) -> None:
    for _ in range(25):
        await world.submit()
    await world.database.fetch("DELETE FROM queue_entry")
    done = _doctor(ledger_uri)
    assert done.stdout.count("in no queue.") == 20
    assert "and 5 more" in done.stdout


def test_a_ledger_that_does_not_answer_is_one_line() -> None:
    done = _doctor("postgresql://127.0.0.1:1/x")
    assert done.returncode == 1
    assert done.stderr.startswith("LedgerUnavailable: ")
    assert "Traceback" not in done.stderr
