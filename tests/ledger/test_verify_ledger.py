"""``windlass-operator doctor --verify-ledger`` as people and programs meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kube_server import KubeServer, Scripted, kube_server, status
from tests.support.world import World
from windlass_operator import verify
from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import CHECKS, WHOLE
from windlass_operator.services.outside import OUTSIDE, POD_CHECKS, RUN_CHECKS


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def _doctor(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "WINDLASS_POSTGRES_URI": uri, "KUBECONFIG": "/nowhere"}
    command = [sys.executable, "-m", "windlass_operator.cli", "doctor", "--verify-ledger", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


async def test_a_sound_ledger_is_a_line_for_each_rule_and_exit_code_0(world: World, ledger_uri: str) -> None:
    await world.submit()
    done = _doctor(ledger_uri, "--ledger-only")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * (len(CHECKS) + len(WHOLE))
    assert lines[-1].startswith("1 runs in ")
    assert lines[-1].endswith("no violations.")
    assert (done.returncode, done.stderr) == (0, "")


async def test_what_cannot_be_reached_from_here_is_skipped_and_says_why(world: World, ledger_uri: str) -> None:
    await world.submit()
    done = _doctor(ledger_uri)
    lines = done.stdout.splitlines()
    skipped = {line.split()[2]: line for line in lines if line.startswith("skip")}
    assert set(skipped) == {check.name for check in OUTSIDE}
    assert "not looked at: Cannot find out how to reach Kubernetes" in skipped["pods_there"]
    assert "not looked at: No object store is configured here" in skipped["objects_there"]
    assert lines[-1].endswith("no violations, 9 checks not made.")
    assert done.returncode == 0


async def test_a_broken_ledger_names_the_run_what_is_wrong_and_what_to_do(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    await world.database.fetch("DELETE FROM queue_entry")
    done = _doctor(ledger_uri)
    assert done.returncode == 1
    failed = [line.split()[1:4] for line in done.stdout.splitlines() if line.startswith("fail")]
    assert failed == [["I1", "queue_entries", "1"]]
    assert f"run {run_id}: It is Queued and in no queue." in done.stdout
    assert "→ It will not end by itself" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": 1 violation, 9 checks not made.")


async def test_programs_get_the_same_as_json(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    await world.database.fetch("DELETE FROM queue_entry")
    done = _doctor(ledger_uri, "--json", "--page", "1")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["runs"]) == (1, False, 1)
    unseen = {check["check"]: check["not_looked_at"] for check in told["checks"] if check["violations"] is None}
    assert set(unseen) == {check.name for check in OUTSIDE}
    assert all(unseen.values())
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


async def _verified(
    kube: KubeServer, uri: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[bool, dict[str, dict[str, object]]]:
    """Verify through the whole command but its process, and return what it says of each check."""
    config = folder / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": kube.url}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    config.write_text(
        json.dumps({"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(config))
        patch.setattr("windlass_operator.services.outside.PAUSES", (0,))
        fine = await verify.verify(as_json=True, page=5000, env={"WINDLASS_POSTGRES_URI": uri})
    return fine, {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


async def test_an_empty_cluster_beside_an_empty_ledger_is_looked_at(
    ledger_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with kube_server() as kube:
        kube.will(Scripted(200, {"items": [], "metadata": {}}))
        fine, told = await _verified(kube, ledger_uri, tmp_path, capsys)
        assert {request.method for request in kube.seen} == {"GET"}
        assert {request.path.rsplit("/", 1)[1] for request in kube.seen} == {"pods", "runs"}
    assert fine
    assert [told[check.name]["violations"] for check in (*POD_CHECKS, *RUN_CHECKS)] == [0] * 7


async def test_a_process_that_may_not_list_says_where_to_run_it(
    ledger_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with kube_server() as kube:
        said = (
            'pods is forbidden: User "system:serviceaccount:windlass-system:windlass-api" cannot list resource "pods"'
        )
        kube.will(status(403, "Forbidden", said))
        fine, told = await _verified(kube, ledger_uri, tmp_path, capsys)
    assert fine
    for check in (*POD_CHECKS, *RUN_CHECKS):
        assert told[check.name]["violations"] is None
        assert str(told[check.name]["not_looked_at"]).endswith("The operator's pod may: run it there.")


async def test_a_run_that_shows_what_no_ledger_has_is_a_violation(
    ledger_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = {"name": "order-1", "namespace": "shop", "uid": "u", "generation": 1}
    lost = {"metadata": meta, "status": {"runId": "01a1fe95-1573-76bd-9b89-25f16aebb3d2", "reason": "LedgerRegressed"}}
    async with kube_server() as kube:
        empty, some = Scripted(200, {"items": []}), Scripted(200, {"items": [lost]})
        kube.will(empty, some, some)
        fine, told = await _verified(kube, ledger_uri, tmp_path, capsys)
    assert (fine, told["runs_known"]["violations"]) == (False, 1)
