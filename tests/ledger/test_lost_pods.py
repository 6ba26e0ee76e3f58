"""Pods that end badly: who is charged, what is kept of them, and what a user reads."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.world import World
from windlass import protocol
from windlass_operator.domain.pods import PodSeen
from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.ledger.database import Database

MIB = 1 << 20


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def _attempts(world: World, run_id: UUID) -> list[dict[str, Any]]:
    return await world.runs.attempts(run_id)


def _pod(world: World, **changes: Any) -> PodSeen:
    return replace(next(iter(world.cluster.pods.values())), **changes)


@pytest.mark.parametrize(
    ("reason", "used", "limit", "failures", "shown"),
    [
        ("OutOfMemory", 60 * MIB, 64 * MIB, (1, 0), "OutOfMemory"),
        ("OutOfMemory", None, 64 * MIB, (1, 0), "OutOfMemory"),
        ("OutOfMemory", 20 * MIB, 64 * MIB, (0, 1), "NodeOutOfMemory"),
        ("OutOfMemory", 60 * MIB, None, (0, 1), "NodeOutOfMemory"),
        ("Evicted", 60 * MIB, 64 * MIB, (0, 1), "Evicted"),
    ],
)
async def test_the_code_answers_for_its_own_limit_and_the_node_for_the_rest(
    world: World, reason: str, used: int | None, limit: int | None, failures: tuple[int, int], shown: str
) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    beat = protocol.Beat(token=attempt.token, memory_bytes=used)
    await world.attempts.heartbeat(protocol.HeartbeatRequest(beats=[beat]))
    await world.pods.observe(_pod(world, ended=True, reason=reason, exit_code=137, memory_limit=limit))
    row = await world.get(run_id)
    assert (row["state"], (row["user_failures"], row["infra_failures"])) == ("Queued", failures)
    (lost,) = await _attempts(world, run_id)
    assert (lost["outcome"], lost["failure"].reason) == ("Lost", shown)
    if used and shown == "OutOfMemory":
        assert "The limit is 64 MiB, the last heartbeat told of 60 MiB." in lost["failure"].message


async def test_what_the_cluster_told_of_a_pod_is_kept_when_the_pod_is_gone(world: World) -> None:
    run_id = await world.submit()
    await world.claim()
    killed = {"at": "2026-05-04T10:00:09Z", "reason": "Evicted", "message": "The node was low on memory.", "count": 1}
    world.cluster.history = {"events": [killed], "lines": ["charging 7", "charged 7"]}
    state = {"phase": "Failed", "imageId": "runner@sha256:ab"}
    seen = _pod(world, ended=True, reason="Evicted", exit_code=137, node="worker-1", last_state=state)
    await world.pods.observe(seen)
    await world.pods.observe(replace(seen, exists=False, last_state={}))
    (lost,) = await _attempts(world, run_id)
    assert lost["node"] == "worker-1"
    assert msgspec.json.decode(lost["last_state"]) == {
        **state,
        "events": [killed],
        "lines": ["charging 7", "charged 7"],
    }


@pytest.mark.parametrize("trouble", [KubeUnavailableError("the API server is away"), TimeoutError()])
async def test_a_cluster_that_tells_nothing_of_a_pod_delays_no_run(world: World, trouble: Exception) -> None:
    run_id = await world.submit()
    await world.claim()
    world.cluster.history = trouble
    await world.pods.observe(_pod(world, exists=False, ended=True))
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_pod_that_could_not_begin_tells_its_last_line_as_the_reason(world: World) -> None:
    run_id = await world.submit()
    await world.pods.start_due()
    world.cluster.history = {"events": [], "lines": ["Traceback", "ModuleNotFoundError: No module named 'windlass'"]}
    await world.pods.observe(_pod(world, ended=True, exit_code=1, message="The runner exited with code 1."))
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Queued", "PodEnded")
    assert row["message"].endswith("Its last line: ModuleNotFoundError: No module named 'windlass'")


async def test_an_operator_that_stops_between_the_end_of_a_pod_and_its_record_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await world.submit()
    await world.claim()
    seen = _pod(world, ended=True, reason="OutOfMemory", exit_code=137, memory_limit=64 * MIB)
    with monkeypatch.context() as stopped:
        stopped.setattr(world.pods, "_end", _stop)
        with pytest.raises(InterruptedError):
            await world.pods.observe(seen)
    await world.pods.observe(seen)
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 1, 0)
    assert (await world.database.fetch("SELECT state FROM pod"))[0]["state"] == "Ended"


async def test_what_is_killed_for_a_cancellation_is_nobodys_failure(world: World) -> None:
    run_id = await world.submit()
    await world.claim()
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    await world.pods.observe(_pod(world, ended=True, exists=False))
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Cancelled", 0, 0)


async def _stop(*_: Any, **__: Any) -> None:
    raise InterruptedError
