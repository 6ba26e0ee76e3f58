"""The plane of local mode: real API, real operator loops, real runners, on a real ledger; no Kubernetes."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.eventually import eventually
from windlass.client import Client, RunHandle
from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.local.plane import LocalPlane, PortTakenError
from windlass_operator.resources.base import ResourceInvalidError

SOURCE = """
import os, time
from windlass import task, step

@step
def double(n: int) -> int:
    return n * 2

@task
def order(n: int) -> int:
    print("order", n)
    return double(n)

@task
def sleeper(path: str) -> str:
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
"""


def a_task(name: str = "order", **spec: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"entrypoint": f"job:{name}", "source": {"inline": SOURCE}}
    return _object("Task", name, {**base, **spec})


def a_run(name: str, **spec: Any) -> dict[str, Any]:
    return _object("Run", name, {"taskRef": {"name": "order"}, **spec})


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "windlass.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def plane(ledger_uri: str, tmp_path: Path) -> AsyncIterator[LocalPlane]:
    async with LocalPlane.start(ledger_uri, [a_task(), a_task("sleeper")], folder=tmp_path) as made:
        yield made


async def trigger(plane: LocalPlane, task: str, payload: Any) -> RunHandle:
    return await asyncio.to_thread(Client(plane.url, "none", "default").trigger, task, payload)


def is_gone(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()


async def test_a_run_started_through_the_api_ends_with_its_result(plane: LocalPlane) -> None:
    run = await trigger(plane, "order", 21)
    assert await run.result("30s") == 42


async def test_a_run_resource_is_run_and_shows_what_became_of_it(plane: LocalPlane) -> None:
    applied = await plane.apply(a_run("order-1", payload=4))

    async def done() -> bool:
        return bool(applied.body["status"].get("state") == "Succeeded")

    await eventually(done)
    assert applied.body["status"]["result"] == 8


async def test_an_edited_task_gets_another_version(plane: LocalPlane) -> None:
    before = await (await trigger(plane, "order", 1)).get()
    await plane.apply(a_task(source={"inline": SOURCE.replace("n * 2", "n * 3")}))
    run = await trigger(plane, "order", 1)
    assert await run.result("30s") == 3
    assert ((await run.get())["version"], before["version"]) == (2, 1)


async def test_a_task_that_cannot_be_run_is_refused_and_the_old_one_stays(plane: LocalPlane) -> None:
    with pytest.raises(TaskInvalidError, match=r"spec\.retry\.maxAttempts"):
        await plane.apply(a_task(retry={"maxAttempts": 0}))
    with pytest.raises(TaskInvalidError, match="container task needs a container"):
        await plane.apply(_object("Task", "order", {"command": ["sh"]}))
    with pytest.raises(ResourceInvalidError, match="nothing that local mode knows"):
        await plane.apply({"apiVersion": "v1", "kind": "Pod"})
    assert await (await trigger(plane, "order", 2)).result("30s") == 4


async def test_what_a_runner_has_started_ends_with_the_plane(ledger_uri: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    async with LocalPlane.start(ledger_uri, [a_task("sleeper")], folder=tmp_path, grace=0.2) as plane:
        run = await trigger(plane, "sleeper", str(note))

        async def begun() -> bool:
            return note.exists() and note.read_text() != ""

        await eventually(begun)
        pid = int(note.read_text())
    assert is_gone(pid)()
    async with LocalPlane.start(ledger_uri, folder=tmp_path) as plane:  # handed back, and used no attempt
        seen = await asyncio.to_thread(Client(plane.url, "none", "default").get, run.id)
    assert seen["failures"] == {"user": 0, "infra": 0}


async def test_a_runner_that_is_killed_is_seen_at_once_and_its_run_goes_on(plane: LocalPlane, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    run = await trigger(plane, "sleeper", str(note))

    async def begun() -> bool:
        return note.exists() and note.read_text() != ""

    await eventually(begun)
    first = note.read_text()
    (pod,) = plane.runners.all()
    note.unlink()
    plane.runners.delete(pod.uid)

    await eventually(begun)
    assert note.read_text() != first
    assert (await run.get())["failures"]["user"] == 0


async def test_a_web_page_in_the_users_browser_gets_nothing(plane: LocalPlane) -> None:
    path = f"{plane.url}/api/v1/namespaces/default/runs"
    async with aiohttp.ClientSession() as session:
        for headers in ({"Origin": "https://bad.example"}, {"Host": "bad.example"}):
            async with session.get(path, headers=headers) as answer:
                assert answer.status == 403
        async with session.get(path) as answer:
            assert answer.status == 200


async def test_who_has_not_the_token_is_refused_where_one_is_set(ledger_uri: str, tmp_path: Path) -> None:
    async with LocalPlane.start(ledger_uri, folder=tmp_path, token="good") as plane:  # noqa: SIM117 - two servers
        async with aiohttp.ClientSession() as session:
            for token, status in ((None, 401), ("bad", 401), ("good", 200)):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                async with session.get(f"{plane.url}/api/v1/namespaces/default/runs", headers=headers) as answer:
                    assert answer.status == status


async def test_a_port_that_is_taken_is_said(plane: LocalPlane, ledger_uri: str) -> None:
    port = int(plane.url.rpartition(":")[2])
    with pytest.raises(PortTakenError, match=str(port)):
        async with LocalPlane.start(ledger_uri, port=port):
            pass


async def test_a_variable_from_a_secret_comes_from_the_environment(
    plane: LocalPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os\nfrom windlass import task\n@task\ndef order() -> str:\n    return os.environ['STRIPE'][:3]\n"
    env = [{"name": "STRIPE", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}}]
    await plane.apply(a_task(source={"inline": source}, env=env))
    run = await trigger(plane, "order", None)

    async def held() -> bool:
        return (await run.get()).get("reason") == "SecretNotFound"

    await eventually(held)
    monkeypatch.setitem(os.environ, "STRIPE", "sk_live")
    assert await run.result("30s") == "sk_"


async def test_runners_of_a_task_with_standby_wait_before_any_run(plane: LocalPlane) -> None:
    body = a_task("warm", standby=1, source={"inline": SOURCE + "\n@task\ndef warm():\n    return os.getppid()\n"})
    await plane.apply(body)

    async def waiting() -> list[dict[str, Any]]:
        return await plane.database.fetch(
            "SELECT name FROM pod WHERE ahead AND claim_id IS NOT NULL AND state = 'Created'"
        )

    (first,) = await eventually(waiting)
    run = await trigger(plane, "warm", None)
    assert isinstance(await run.result("30s"), int)
    (row,) = await plane.database.fetch("SELECT ahead FROM pod WHERE id = (SELECT pod_id FROM attempt)")
    assert row["ahead"], "it ran in the process that waited"
    (second,) = await eventually(waiting)
    assert second != first

    await plane.delete("Task", "default", "warm")
    await eventually(waiting, lambda rows: rows == [])


async def test_runners_that_waited_for_a_task_of_an_earlier_plane_do_not_come_back(
    ledger_uri: str, tmp_path: Path
) -> None:
    async with LocalPlane.start(ledger_uri, [a_task(standby=1)], folder=tmp_path) as plane:

        async def waiting() -> list[dict[str, Any]]:
            return await plane.database.fetch("SELECT 1 FROM pod WHERE ahead AND claim_id IS NOT NULL")

        await eventually(waiting)
    async with LocalPlane.start(ledger_uri, folder=tmp_path) as plane:
        assert await plane.database.fetch("SELECT 1 FROM task_head") == []
