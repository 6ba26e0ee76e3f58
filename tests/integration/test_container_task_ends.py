"""How attempts of container tasks end when somebody else wants them to: cancel, timeouts, drains, lost runners.

The kubelet's part is played by signals: SIGTERM to the shim is the end of the main container, as in a drain.
"""

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.api_server import serving
from tests.support.container_pod import ContainerPod, container_pod, sh
from tests.support.eventually import eventually
from tests.support.world import World
from windlass_operator import config
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes

THRICE = RetryPolicy(max_attempts=3, min_delay=timedelta(hours=1), jitter="none")
FOREVER = 'echo "on it"; sleep 1000 & wait'
CLEANS_UP = 'trap "echo cleaned up; exit 0" TERM; echo "on it"; sleep 1000 & wait'
DEAF = 'trap "" TERM; echo "on it"; while :; do sleep 0.1; done'


@pytest.fixture(autouse=True)
def _quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation reaches the runner with a heartbeat."""
    monkeypatch.setattr(config, "HEARTBEAT", timedelta(milliseconds=100))
    monkeypatch.setattr(config, "CANCEL_GRACE", timedelta(seconds=1))


async def logs_of(world: World, run_id: UUID) -> list[str]:
    return [line["text"] for line in await world.runs.logs(run_id, after=(0, 0), limit=1000)]


async def on_it(world: World, run_id: UUID) -> None:
    """Wait until the script has printed its first line."""
    await eventually(lambda: logs_of(world, run_id), lambda lines: lines[:1] == ["on it"])


async def attempts_of(world: World, run_id: UUID) -> int:
    (row,) = await world.database.fetch("SELECT count(*) AS n FROM attempt WHERE run_id = %(id)s", {"id": run_id})
    return int(row["n"])


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Stop a process for now, and wait until it stands still."""
    process.send_signal(signal.SIGSTOP)

    async def state() -> str:
        with open(f"/proc/{process.pid}/stat") as file:  # noqa: ASYNC230, PTH123 - a file of the kernel's
            return file.read().rpartition(")")[2].split()[0]

    await eventually(state, lambda s: s == "T")


async def cancel(world: World, run_id: UUID) -> None:
    await world.runs.cancel(run_id, reason="Cancelled", message="by a test")


@pytest.mark.parametrize(("script", "lines"), [(CLEANS_UP, ["on it", "cleaned up"]), (DEAF, ["on it"])])
async def test_a_cancelled_command_is_asked_to_end_and_then_ended(
    world: World, url: str, shim: Path, script: str, lines: list[str]
) -> None:
    run_id = await world.submit(sh(script, retry=THRICE))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        await cancel(world, run_id)
        await pod.finished()
    row = await world.get(run_id)
    assert (row["state"], await attempts_of(world, run_id), await logs_of(world, run_id)) == ("Cancelled", 1, lines)


async def test_a_command_that_takes_too_long_is_asked_to_end_and_its_attempt_is_retried(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh(CLEANS_UP, retry=THRICE, attempt_timeout=timedelta(milliseconds=500)))
    async with container_pod(world, url, shim) as pod:
        assert await pod.finished() == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], json.loads(row["error"])["class"]) == ("Queued", 1, "timeout")
    assert (await logs_of(world, run_id))[-1] == "cleaned up"


async def test_running_time_over_all_attempts_ends_the_run(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh(DEAF, retry=THRICE, timeout=timedelta(milliseconds=300)))
    async with container_pod(world, url, shim) as pod:
        assert await pod.finished() == exit_codes.USER_FAILURE
    assert (await world.get(run_id))["state"] == "TimedOut"


async def test_a_drain_hands_the_run_back_without_any_budget(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh(FOREVER, retry=THRICE))
    async with container_pod(world, url, shim, WINDLASS_GRACE="0.3") as pod:
        await on_it(world, run_id)
        pod.main.terminate()
        assert await pod.finished() == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)


async def test_a_drain_lets_a_command_finish_within_the_grace(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh('echo "on it"; sleep 0.5; echo 5 > $WINDLASS_RESULT_FILE', retry=THRICE))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        pod.main.terminate()
        pod.runner.terminate()  # as a kubelet that is out of patience does
        assert await pod.finished() == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["result"], await attempts_of(world, run_id)) == ("Succeeded", "5", 1)


async def test_a_pod_that_is_drained_before_its_command_began_runs_nothing(world: World, shim: Path) -> None:
    run_id = await world.submit(sh('echo "on it"', retry=THRICE))
    async with serving(world) as url:
        pass
    async with container_pod(world, url, shim) as pod:
        await eventually(lambda: _is_connected(pod.main))
        pod.main.terminate()
        async with serving(world, port=int(url.rsplit(":", 1)[1])):
            assert await pod.finished() == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    assert await logs_of(world, run_id) == []


async def _is_connected(process: asyncio.subprocess.Process) -> bool:
    """Whether the shim has found its runner: the runner then waits for the API."""
    fds = Path(f"/proc/{process.pid}/fd")
    return any(str(fd.readlink()).startswith("socket:") for fd in fds.iterdir())  # noqa: ASYNC240 - the kernel's


@pytest.mark.parametrize("then", ["timeout", "drain", "cancel"])
@pytest.mark.parametrize("sleeper", ["runner", "main"])
async def test_a_command_that_has_finished_is_never_run_again_whatever_comes_then(
    world: World, url: str, shim: Path, tmp_path: Path, then: str, sleeper: str
) -> None:
    """Each of the two processes in turn sleeps through the end of the command and wakes to both news at once."""
    go, done = tmp_path / "go", tmp_path / "done"
    script = f'echo "on it"; until test -e {go}; do sleep 0.02; done; echo 5 > $WINDLASS_RESULT_FILE; touch {done}'
    changes: dict[str, Any] = {"attempt_timeout": timedelta(seconds=4)} if then == "timeout" else {}
    run_id = await world.submit(sh(script, retry=THRICE, **changes))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        process = getattr(pod, sleeper)
        await stopped(process)
        go.touch()
        await eventually(lambda: _exists(done))
        await _ended(pod)
        if then == "timeout":
            await eventually(lambda: _is_older(world, timedelta(seconds=4.5)))
        elif then == "drain":
            pod.main.terminate()
        else:
            await cancel(world, run_id)
        process.send_signal(signal.SIGCONT)
        assert await pod.finished() == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["result"], await attempts_of(world, run_id)) == ("Succeeded", "5", 1)


async def _exists(path: Path) -> bool:
    return path.exists()  # noqa: ASYNC240 - a look at a file in memory


async def _ended(pod: ContainerPod) -> None:
    """Wait until the command is a zombie of the shim's, or was reaped by it."""

    async def living() -> list[str]:
        with open(f"/proc/{pod.main.pid}/task/{pod.main.pid}/children") as file:  # noqa: ASYNC230, PTH123 - the kernel's
            children = file.read().split()
        states = []
        for child in children:
            # Between the two looks it may have been reaped.
            with suppress(FileNotFoundError), open(f"/proc/{child}/stat") as file:  # noqa: ASYNC230, PTH123 - the kernel's
                states.append(file.read().rpartition(")")[2].split()[0])
        return [state for state in states if state != "Z"]

    await eventually(living, lambda states: not states)


async def _is_older(world: World, age: timedelta) -> bool:
    """Whether the only attempt was claimed so long ago."""
    query = "SELECT clock_timestamp() - started_at > %(age)s AS older FROM attempt"
    (row,) = await world.database.fetch(query, {"age": age})
    return bool(row["older"])


async def test_the_end_of_a_finished_command_waits_for_an_api_that_is_away_through_a_drain(
    world: World, shim: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = f'echo "on it"; until test -e {go}; do sleep 0.02; done; echo 5 > $WINDLASS_RESULT_FILE'
    run_id = await world.submit(sh(script, retry=THRICE))
    async with serving(world) as url:
        started = container_pod(world, url, shim)
        pod = await started.__aenter__()
        await on_it(world, run_id)
    go.touch()
    await _ended(pod)
    pod.main.terminate()
    pod.runner.terminate()
    async with serving(world, port=int(url.rsplit(":", 1)[1])):
        assert await pod.finished() == exit_codes.DONE
    await started.__aexit__(None, None, None)
    row = await world.get(run_id)
    assert (row["state"], row["result"], await attempts_of(world, run_id)) == ("Succeeded", "5", 1)


async def test_a_command_whose_attempt_was_closed_is_ended_and_writes_nothing(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh(DEAF, retry=THRICE))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        (attempt,) = await world.database.fetch("SELECT id FROM attempt")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
        assert await pod.finished() == exit_codes.LEASE_LOST
    row = await world.get(run_id)
    assert (row["state"], row["infra_failures"], row["user_failures"]) == ("Queued", 1, 0)


async def test_a_command_whose_runner_dies_is_ended_and_a_new_runner_claims_nothing(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh(FOREVER, retry=THRICE))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        pod.runner.kill()
        assert await pod.finished() == exit_codes.API_UNREACHABLE
        socket = pod.folder / "runner.sock"
        socket.unlink()
        await pod.start_runner()  # as the kubelet does with a sidecar
        await eventually(lambda: _exists(socket))
        pod.runner.terminate()
        assert await asyncio.wait_for(pod.runner.wait(), 10) == exit_codes.DONE
        (seen,) = world.cluster.pods.values()
        ended = PodSeen(seen.name, seen.namespace, seen.uid, exists=True, ended=True, succeeded=False, started=True)
        await world.pods.observe(ended)
    row = await world.get(run_id)
    assert (row["state"], row["infra_failures"], await attempts_of(world, run_id)) == ("Queued", 1, 1)


async def test_a_main_container_that_is_ended_at_its_memory_limit_is_charged_to_the_user(
    world: World, url: str, shim: Path
) -> None:
    """Where a control group is ended as a whole, the shim goes too: only the container's status says why."""
    run_id = await world.submit(sh('echo "on it"; sleep 3', retry=THRICE))
    async with container_pod(world, url, shim) as pod:
        await on_it(world, run_id)
        pod.main.kill()
        assert await pod.finished() == -signal.SIGKILL
        (seen,) = world.cluster.pods.values()
        assert (await world.get(run_id))["state"] == "Running"
        limit = 64 << 20
        killed = replace(seen, ended=True, reason="OutOfMemory", exit_code=137, memory_limit=limit)
        await world.pods.observe(killed)
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 1, 0)
