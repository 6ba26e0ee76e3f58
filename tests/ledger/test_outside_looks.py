"""How cluster and store are compared with the ledger: patiently, in pages, and never as sound where nobody looked."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.installation import NOW, Installation, install
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeUnavailableError
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Database
from windlass_operator.services import outside
from windlass_operator.services.invariants import Report
from windlass_operator.services.outside import OBJECT_CHECKS, OUTSIDE, POD_CHECKS, RUN_CHECKS, Look
from windlass_operator.services.outside_cluster import PodLook, RunLook
from windlass_operator.services.outside_objects import ObjectLook

NO_RUNS: list[RunSeen] = []


@pytest.fixture
async def there(database: Database) -> Installation:
    return await install(database)


async def test_what_is_young_or_about_to_be_done_is_no_finding(there: Installation, clock: Clock) -> None:
    world = there.world
    fresh: list[Look] = [PodLook(world.database, world.cluster), RunLook(world.database, world.cluster)]
    there.delete_pod("running")
    there.delete_run("running")
    await there.fetch("UPDATE pod SET delete_at = ledger_now() - interval '9 minutes' WHERE delete_at IS NOT NULL")
    there.show("done", state="Running")
    await there.fetch("INSERT INTO projection_entry (run_id, revision) VALUES (%(id)s, 1)", id=there.runs["done"])
    world.create_run("new")["metadata"]["creationTimestamp"] = Clock().now().strftime("%Y-%m-%dT%H:%M:%SZ")
    world.create_run("refused", status={"reason": "PayloadInvalid"})
    await there.put_object(age=timedelta(days=1))
    await there.put_object(age=timedelta(days=9), project="another-installation")
    assert await there.found([*fresh, there.looks()[2]]) == []
    clock.advance(timedelta(seconds=31))
    found = {violation.check for violation in await there.found(fresh)}
    assert found == {"attempt_pods", "pods_there", "resources_there"}


async def test_a_pod_and_a_run_that_a_list_does_not_show_are_asked_for(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_runs() -> Any:
        for run in NO_RUNS:
            yield run

    cluster = there.world.cluster
    cluster.unlabelled.update(cluster.pods)
    cluster.pods.clear()
    monkeypatch.setattr(cluster, "each_run", no_runs)
    assert await there.found() == []


async def test_a_planned_pod_is_known_by_its_name(there: Installation) -> None:
    await there.fetch("UPDATE pod SET uid = NULL, state = 'Planned' WHERE uid = %(uid)s", uid=there.pods["done"])
    assert await there.found() == []


async def test_a_run_that_is_being_deleted_is_left_alone(there: Installation) -> None:
    there.show("done", state="Running")
    meta = there.world.cluster.runs["uid-of-done"]["metadata"]
    meta["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    assert await there.found() == []


async def test_other_namespaces_than_the_listed_ones_are_not_missed(there: Installation) -> None:
    there.delete_pod("running")
    there.delete_run("running")
    database, cluster = there.world.database, there.world.cluster
    for listed, expected in (("other", set()), ("shop", {"attempt_pods", "pods_there", "resources_there"})):
        looks: list[Look] = [
            PodLook(database, cluster, namespaces=(listed,), settled=NOW),
            RunLook(database, cluster, namespaces=(listed,), settled=NOW),
        ]
        assert {violation.check for violation in await there.found(looks)} == expected


async def test_what_the_operator_makes_good_meanwhile_is_not_told(
    there: Installation, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    waited: list[float] = []

    async def resync(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            await there.world.pods.resync()
            await there.world.imports.resync()

    clock.advance(timedelta(minutes=1))
    await there.world.attempts.serve_heartbeats()
    there.delete_pod("running")
    there.delete_pod("done")
    there.delete_run("twin")
    monkeypatch.setattr("windlass_operator.services.outside.asyncio.sleep", resync)
    assert await there.found(pauses=outside.PAUSES) == []
    assert waited == list(outside.PAUSES[:3])


async def test_what_stays_is_waited_for_and_objects_are_looked_at_twice(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    looked: list[str] = []
    there.store.blobs.clear()
    await there.put_object(age=timedelta(days=2))
    there.world.cluster.pods["u"] = replace(there.world.cluster.pods[there.pods["running"]], uid="u", name="stray")
    runs = there.store.runs

    def counted() -> Any:
        looked.append("store")
        return runs()

    monkeypatch.setattr(there.store, "runs", counted)
    report = Report()
    await outside.examine(there.looks(), report, pauses=(0, 0, 0), told=told.append)
    assert {violation.check for violation in report.violations} == {"objects_owned", "objects_there", "pods_known"}
    assert (told, looked) == ([3, 3, 3], ["store", "store"])


async def test_a_cluster_that_may_not_be_read_and_a_store_that_is_away_are_no_good_news(there: Installation) -> None:
    class Refusing:
        async def list_pods(self) -> list[PodSeen]:
            raise ForbiddenByPolicyError("Cannot list pods in the cluster: forbidden.", policy="rbac")

        async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
            raise AssertionError(namespace, name)

        async def each_run(self) -> Any:
            for run in NO_RUNS:
                yield run
            raise KubeUnavailableError("Cannot list runs: refused.")

        async def run_uid(self, namespace: str, name: str) -> str | None:
            raise AssertionError(namespace, name)

    there.store.blobs.clear()
    there.store.down = True
    database = there.world.database
    looks: list[Look] = [
        PodLook(database, Refusing()),
        RunLook(database, Refusing()),
        ObjectLook(database, there.store),
    ]
    report = await there.report(looks)
    assert (report.violations, report.counts) == ([], {})
    why = {name: said.split(":")[0] for name, said in report.skipped.items()}
    assert why == {
        **{check.name: "Cannot list pods in the cluster" for check in POD_CHECKS},
        **{check.name: "Cannot list runs" for check in RUN_CHECKS},
        **{check.name: "The blob store is down because a test says so." for check in OBJECT_CHECKS},
    }
    assert "operator's pod may" in report.skipped["pods_known"]


async def test_a_store_that_goes_between_two_looks_is_told_as_not_looked_at(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def goes(_: float) -> None:
        there.store.down = True

    there.store.blobs.clear()
    monkeypatch.setattr("windlass_operator.services.outside.asyncio.sleep", goes)
    report = await there.report()
    assert set(report.skipped) == {check.name for check in OBJECT_CHECKS}
    assert not report.counts.keys() & report.skipped.keys()


async def test_without_a_store_it_is_said_where_the_values_are(there: Installation) -> None:
    look = ObjectLook(there.world.database, LedgerBlobs(there.world.database, BlobMissingError))
    assert "Does this process lack its settings?" in (await there.report([look])).skipped["objects_there"]
    await there.fetch("UPDATE blob SET data = 'x'")
    assert "rows of the ledger" in (await there.report([look])).skipped["objects_owned"]


async def test_many_pages_find_the_same(there: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        await there.start(name)
    while await there.world.projection.project_due():
        pass
    for module in ("outside_cluster", "outside_objects"):
        monkeypatch.setattr(f"windlass_operator.services.{module}._PAGE", 1)
    monkeypatch.setattr("windlass_operator.services.outside_cluster._RUNS", 1)
    assert await there.found() == []
    pods = len(there.world.cluster.pods)
    there.world.cluster.runs.clear()
    there.world.cluster.pods.clear()
    there.store.blobs.clear()
    counts = (await there.report()).counts
    assert counts == {
        **dict.fromkeys((check.name for check in OUTSIDE), 0),
        "attempt_pods": 4,
        "pods_there": pods,
        "resources_there": 6,
        "objects_there": 1,
    }


async def test_more_than_can_be_asked_for_are_believed_to_be_missing(
    there: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_operator.services.outside_cluster._PROVEN", 1)
    asked: list[str] = []

    async def run_uid(_: str, name: str) -> str | None:
        asked.append(name)
        return None

    monkeypatch.setattr(there.world.cluster, "run_uid", run_uid)
    there.world.cluster.runs.clear()
    report = await there.report()
    assert (report.counts["resources_there"], asked) == (3, [])
