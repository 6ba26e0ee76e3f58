"""What lies outside of the ledger: nothing of it is broken by what the services do, and each break by hand is found."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.support.clock import Clock
from tests.support.installation import Installation, install
from tests.support.world import SHOP
from windlass_operator.domain.pods import PodSeen
from windlass_operator.ledger.database import Database
from windlass_operator.services.outside import OUTSIDE


@pytest.fixture
async def there(database: Database) -> Installation:
    return await install(database)


async def _delete_pod(there: Installation) -> None:
    there.delete_pod("running")


async def _end_pod_unseen(there: Installation) -> None:
    pods, uid = there.world.cluster.pods, there.pods["running"]
    pods[uid] = replace(pods[uid], ended=True)


async def _forget_pod(there: Installation) -> None:
    await there.fetch("UPDATE attempt SET pod_id = NULL WHERE closed_at IS NULL")


async def _delete_kept_pod(there: Installation) -> None:
    there.delete_pod("done")


async def _add_pod(there: Installation) -> None:
    there.world.cluster.pods["u"] = PodSeen(
        "stray", "shop", "u", exists=True, ended=False, succeeded=False, started=True
    )


async def _leave_pod(there: Installation) -> None:
    await there.fetch("UPDATE pod SET delete_at = ledger_now() - interval '11 minutes' WHERE delete_at IS NOT NULL")


async def _leave_deleted_pod(there: Installation) -> None:
    await there.fetch("UPDATE pod SET deleted_at = ledger_now() - interval '11 minutes' WHERE delete_at IS NOT NULL")


async def _show_unknown_run(there: Installation) -> None:
    there.world.create_run("lost", status={"runId": str(uuid4()), "reason": "LedgerRegressed"})


async def _show_junk(there: Installation) -> None:
    there.world.create_run("junk", status={"runId": "run-7"})


async def _copy_resource(there: Installation) -> None:
    there.world.create_run("copy", status={"runId": str(there.runs["done"]), "state": "Succeeded"})


async def _show_another_run(there: Installation) -> None:
    there.show("keyed", runId=str(there.runs["done"]))


async def _never_import(there: Installation) -> None:
    body = there.world.create_run("unseen")
    body["metadata"]["creationTimestamp"] = (Clock().now() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _show_another_state(there: Installation) -> None:
    there.show("done", state="Running")


async def _show_another_state_of_twin(there: Installation) -> None:
    there.show("twin", state="Succeeded")


async def _show_no_status(there: Installation) -> None:
    there.world.cluster.runs["uid-of-running"]["status"] = {}


async def _delete_run(there: Installation) -> None:
    there.delete_run("running")


async def _delete_twin(there: Installation) -> None:
    there.delete_run("twin")


async def _recreate_run(there: Installation) -> None:
    body = there.world.cluster.runs.pop("uid-of-running")
    body["metadata"]["uid"] = "another"
    there.world.cluster.runs["another"] = {**body, "status": {}}


async def _lose_object(there: Installation) -> None:
    there.store.blobs.clear()


async def _keep_value_in_ledger(there: Installation) -> None:
    await there.fetch(
        "INSERT INTO blob (run_id, sha256, size, data) VALUES (%(run)s, repeat('0', 64), 1, 'x')",
        run=there.runs["running"],
    )


async def _orphan(there: Installation) -> None:
    await there.put_object(age=timedelta(days=2))


_Break = Callable[[Installation], Awaitable[None]]
_BREAKS: list[tuple[str, str | None, _Break, str]] = [
    # the rule, the run that is named, how it is broken, what is said of it
    ("attempt_pods", "running", _delete_pod, "its pod shop/order-"),
    ("attempt_pods", "running", _end_pod_unseen, "has ended"),
    ("attempt_pods", "running", _forget_pod, "in no pod"),
    ("pods_there", None, _delete_kept_pod, "is not there"),
    ("pods_known", None, _add_pod, "Pod shop/stray (UID u) is not in the ledger"),
    ("pods_left_over", None, _leave_pod, "should not be there since"),
    ("pods_left_over", None, _leave_deleted_pod, "should not be there since"),
    ("runs_known", None, _show_unknown_run, "LedgerRegressed: it is not run again"),
    ("runs_known", None, _show_junk, "shows run run-7, which the ledger does not know"),
    ("runs_known", None, _copy_resource, "Run shop/copy shows run"),
    ("runs_known", "keyed", _show_another_run, "its own is this"),
    ("runs_known", None, _never_import, "Run shop/unseen has no run, and does not say why"),
    ("statuses", "done", _show_another_state, "Run shop/done shows Running; it is Succeeded"),
    ("statuses", "keyed", _show_another_state_of_twin, "Run shop/twin shows Succeeded; it is Queued"),
    ("statuses", "running", _show_no_status, "Run shop/running shows no state; it is Running"),
    ("resources_there", "running", _delete_run, "Its Run shop/running is not there"),
    ("resources_there", "keyed", _delete_twin, "Its Run shop/twin is not there"),
    ("resources_there", "running", _recreate_run, "Its Run shop/running is not there"),
    ("objects_there", "done", _lose_object, "is not in the store"),
    ("objects_there", "running", _keep_value_in_ledger, "is a row of the ledger and not in the store"),
    ("objects_owned", None, _orphan, f"Objects under {SHOP.uid}/"),
]


def test_every_rule_has_a_test_that_breaks_it() -> None:
    assert {name for name, *_ in _BREAKS} == {check.name for check in OUTSIDE}


async def test_nothing_is_found_where_all_is_well(there: Installation) -> None:
    report = await there.report()
    assert (report.violations, report.skipped) == ([], {})
    assert set(report.counts) == {check.name for check in OUTSIDE}


@pytest.mark.parametrize(("name", "run", "broken", "says"), _BREAKS, ids=[b[2].__name__.strip("_") for b in _BREAKS])
async def test_what_was_broken_by_hand_is_seen_through(
    there: Installation, name: str, run: str | None, broken: _Break, says: str
) -> None:
    await broken(there)
    found = [violation for violation in await there.found() if violation.check == name]
    assert [violation.run_id for violation in found] == [there.runs[run] if run else None]
    assert says in found[0].message
    assert found[0].mend
    assert found[0].namespace == (None if name == "objects_owned" else SHOP.namespace)
