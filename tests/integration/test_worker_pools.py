"""Worker pools with real runners: runs share processes that stay, and processes come and go with the work."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_local_plane import _object, a_task, trigger
from tests.support.eventually import eventually
from windlass_operator.local.plane import LocalPlane

SOURCE = """
import os, time
from windlass import task

@task
def quick():
    time.sleep(0.3)
    return os.environ["POD_NAME"]
"""


def a_pooled_task() -> dict[str, Any]:
    return a_task("quick", isolation="Pool", pool="fast", source={"inline": SOURCE})


def a_pool(**spec: Any) -> dict[str, Any]:
    return _object("WorkerPool", "fast", {"slots": 3, "maxReplicas": 2, **spec})


@pytest.fixture
async def plane(ledger_uri: str, tmp_path: Path) -> AsyncIterator[LocalPlane]:
    async with LocalPlane.start(ledger_uri, [a_pool(), a_pooled_task()], folder=tmp_path) as made:
        yield made


async def pods(plane: LocalPlane) -> list[dict[str, Any]]:
    return await plane.database.fetch(
        "SELECT name, claim_id FROM pod WHERE reuse AND ended_at IS NULL AND deleted_at IS NULL"
    )


async def test_runs_share_the_runners_of_their_pool(plane: LocalPlane) -> None:
    runs = [await trigger(plane, "quick", None) for _ in range(12)]
    names = await asyncio.gather(*(run.result("60s") for run in runs))

    assert len(set(names)) <= 2
    (row,) = await plane.database.fetch("SELECT count(*) AS n FROM pod")
    assert row["n"] <= 2, "no run had a pod of its own"
    status = plane.resources.all("WorkerPool")[0]["status"]
    assert status["selector"] == "app.kubernetes.io/managed-by=windlass,windlass.dev/pool=fast"


async def test_a_pool_shrinks_to_nothing_and_comes_back(plane: LocalPlane) -> None:
    assert await (await trigger(plane, "quick", None)).result("60s")
    await plane.apply(a_pool(scaleDownAfter="500ms"))
    await eventually(lambda: pods(plane), lambda rows: rows == [])

    assert await (await trigger(plane, "quick", None)).result("60s")


async def test_another_template_brings_other_runners(plane: LocalPlane) -> None:
    await plane.apply(a_pool(minReplicas=1))
    (old,) = await eventually(lambda: pods(plane), lambda rows: len(rows) == 1 and rows[0]["claim_id"] is not None)
    await plane.apply(a_pool(minReplicas=1, slots=2))

    (new,) = await eventually(lambda: pods(plane), lambda rows: len(rows) == 1 and rows[0]["name"] != old["name"])

    assert await (await trigger(plane, "quick", None)).result("60s") == new["name"]


async def test_without_the_resource_a_run_has_a_runner_of_its_own(ledger_uri: str, tmp_path: Path) -> None:
    async with LocalPlane.start(ledger_uri, [a_pooled_task()], folder=tmp_path) as plane:
        assert await (await trigger(plane, "quick", None)).result("60s")
        assert await plane.database.fetch("SELECT 1 FROM pod WHERE reuse") == []
