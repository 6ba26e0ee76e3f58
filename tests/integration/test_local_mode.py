"""``windlass dev`` as a user meets it: started in a folder, used beside it, stopped, killed, started again."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dev import alive, cli, dev
from tests.support.eventually import eventually
from windlass_operator.local.postgres import LocalPostgres

pytestmark = pytest.mark.timeout(240)  # each starts Windlass twice, on a machine that may be busy

ORDER = """
from windlass import step, task

@step
def charge(order_id: int) -> str:
    print("charging", order_id)
    return f"charge-{order_id}"

@task
def order(order_id: int) -> str:
    return charge(order_id)
"""
SLEEPER = """
import os, time
from windlass import step, task

@step
def first() -> int:
    print("first step")
    return 1

@task
def sleeper() -> int:
    value = first()
    while os.path.exists("wait"):
        time.sleep(0.05)
    return value
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "shop"
    made.mkdir()
    (made / "order.py").write_text(ORDER)
    yield made
    LocalPostgres(made / ".windlass" / "postgres").reset()  # root's data lies elsewhere


async def test_a_file_is_run_edited_and_run_again(folder: Path) -> None:
    async with dev(folder, "order.py") as running:
        assert "windlass run order\n" in running.said
        code, out = await running.cli("run", "order", "-p", "7", "--follow")
        assert (code, out.splitlines()[-1]) == (0, '"charge-7"')
        said = await running.says("Succeeded after")
        assert "│ charging 7" in said
        assert "▶ begins, version 1" in said

        (folder / "order.py").write_text(ORDER.replace("charge-", "paid-"))
        await running.says("Task order is now version 2")
        code, out = await running.cli("run", "order", "-p", "8", "--follow")
        assert (code, out.splitlines()[-1]) == (0, '"paid-8"')
        code, out = await running.cli("runs", "list", "-o", "json")
        assert [run["version"] for run in json.loads(out)] == [2, 1]


async def test_a_file_that_is_broken_is_said_with_its_line_and_the_old_version_stays(folder: Path) -> None:
    async with dev(folder, ".") as running:
        (folder / "order.py").write_text(ORDER + "x = (\n")
        await running.says("✘ order.py:12: SyntaxError")
        code, out = await running.cli("run", "order", "-p", "1")
        assert code == 0, out
        (folder / "order.py").write_text("import no_such_module\n" + ORDER)
        await running.says("✘ order.py:1: ModuleNotFoundError: No module named 'no_such_module'")


async def test_task_and_run_resources_of_yaml_files_are_run(folder: Path) -> None:
    inline = "from windlass import task\n@task\ndef double(n: int) -> int:\n    return n * 2\n"
    task = {"image": "shop:1", "entrypoint": "double:double", "source": {"inline": inline}}
    (folder / "double.yaml").write_text(
        _document("Task", "double", task)
        + _document("Run", "double-1", {"taskRef": {"name": "double"}, "payload": 21})
        + _document("Task", "wrong", {"entrypoint": "double:double", "retry": {"maxAttempts": 0}})
        + _document("Task", "contained", {"command": ["sh", "-c", "true"]})
    )
    async with dev(folder, ".") as running:
        said = await running.says("double-1 ✔ Succeeded")
        assert "double.yaml: image shop:1 is ignored" in said
        assert "double.yaml: Task wrong: spec.retry.maxAttempts: Input should be greater than or equal to 1" in said
        assert "double.yaml: Task contained: spec.command: a container task needs a container" in said
        code, out = await running.cli("runs", "get", "double-1", "-o", "json")
        assert (code, json.loads(out)["result"]) == (0, 42)
    async with dev(folder, "double.yaml") as running:  # the same Run: it is not run again
        code, out = await running.cli("runs", "list", "-o", "json")
        assert [run["name"] for run in json.loads(out)] == ["double-1"]


async def test_queues_and_pools_of_yaml_files_hold_from_the_first_run_on(folder: Path) -> None:
    (folder / "order.py").write_text(ORDER.replace("@task", '@task(queue="payments", pool="fast")'))
    (folder / "limits.yaml").write_text(
        _document("Run", "order-1", {"taskRef": {"name": "order"}, "payload": 1})
        + _document("Queue", "payments", {"paused": True, "concurrency": 3})
        + _document("WorkerPool", "fast", {"slots": 2})
    )
    async with dev(folder, ".") as running:
        code, out = await running.cli("explain", "order-1")
        assert (code, "Paused: Queue 'payments'" in out) == (0, True), out
        code, out = await running.cli("pools", "list", "-o", "json")
        assert [(pool["name"], pool["slots"], pool["missing"]) for pool in json.loads(out)] == [("fast", 2, False)]
        (folder / "limits.yaml").write_text(
            _document("Queue", "payments", {"concurrency": 3}) + _document("WorkerPool", "fast", {"slots": 2})
        )
        said = await running.says("order-1 ✔ Succeeded")
        assert "↻ Queue payments" in said
        code, out = await running.cli("runs", "get", "order-1", "-o", "json")
        assert "fast" in json.loads(out)["podName"]


async def test_ctrl_c_leaves_nothing_behind_and_the_next_start_goes_on(folder: Path) -> None:
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "wait").touch()
    async with dev(folder, ".") as running:
        code, run = await running.cli("run", "sleeper")
        assert code == 0, run
        await running.says("│ first step")
        pids = running.below()
        assert await running.end(signal.SIGINT) == 0
        assert not alive(pids)
    code, out = await cli(folder, "runs", "list", "--timeout", "5s")
    assert code == 3, "the command line no longer takes it for running"
    (folder / "wait").unlink()
    async with dev(folder, ".") as running:
        said = await running.says("✔ Succeeded")
        assert "first step" not in said, "a finished step is not run again"
        code, out = await running.cli("runs", "get", run.strip(), "-o", "json")
        assert json.loads(out)["failures"] == {"user": 0, "infra": 0}


async def test_kill_9_leaves_nothing_behind_and_the_next_start_goes_on(folder: Path) -> None:
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "wait").touch()
    async with dev(folder, ".") as running:
        code, run = await running.cli("run", "sleeper")
        assert code == 0, run
        await running.says("│ first step")
        pids = running.below()
        await running.end(signal.SIGKILL)

        async def left() -> set[int]:
            return alive(pids)

        await eventually(left, lambda found: not found)
    (folder / "wait").unlink()
    async with dev(folder, ".") as running:
        said = await running.says("✔ Succeeded")
        assert "first step" not in said, "a finished step is not run again"
        code, out = await running.cli("runs", "get", run.strip(), "-o", "json")
        assert json.loads(out)["failures"]["user"] == 0


async def test_reset_forgets_all_runs(folder: Path) -> None:
    async with dev(folder, ".") as running:
        assert (await running.cli("run", "order", "-p", "1", "--follow"))[0] == 0
    async with dev(folder, ".", "--reset") as running:
        code, out = await running.cli("runs", "list", "-o", "json")
        assert (code, json.loads(out)) == (0, [])


async def test_a_second_one_in_the_same_folder_is_refused(folder: Path) -> None:
    async with dev(folder, ".") as running:
        code, out = await running.cli("dev", ".")
        assert code == 3
        assert f"runs here already (process {running.process.pid}, http://127.0.0.1:" in out


async def test_a_path_that_is_not_there_is_said(folder: Path) -> None:
    code, out = await cli(folder, "dev", "nothing.py")
    assert (code, out.splitlines()[0]) == (3, "PathInvalid: There is no nothing.py.")


def _document(kind: str, name: str, spec: dict[str, Any]) -> str:
    body = {"apiVersion": "windlass.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return f"---\n{json.dumps(body)}\n"
