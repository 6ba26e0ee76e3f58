"""Code that does to its process what it should not: the run ends all the same, and says how."""

import json
import os
import re
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.runner import ONCE, beat_often, code, ended, logs_of, run_once, runner, said
from tests.support.world import World, a_task
from windlass_runner import exit_codes


@pytest.mark.parametrize("number", [0, 1, 3, 70])
async def test_leaving_by_os_exit_is_a_failure_of_the_code_whatever_the_code(
    world: World, url: str, number: int
) -> None:
    run_id = await world.submit(code(f"import os\n@task\ndef main():\n    os._exit({number})\n"))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"]) == ("Failed", 1)
    assert f"ended with exit code {number} and no result" in row["message"]


@pytest.mark.parametrize(
    "unruly",
    [
        "sys.stdout.close()",
        "sys.stdout = sys.stderr = None",
        "os.close(1), os.close(2)",
        "sys.stdout.detach()",
        "sys.stdout.write = None",
    ],
)
async def test_a_result_arrives_although_the_code_broke_its_output(world: World, url: str, unruly: str) -> None:
    body = f"import os, sys\n@task\ndef main():\n    print('before', flush=True)\n    {unruly}\n    return 'fine'\n"
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == "fine"
    assert await logs_of(world, run_id) == ["before"]


async def test_a_forked_copy_that_comes_back_from_the_task_reports_nothing(world: World, url: str) -> None:
    body = """
import os
@step
def charge(n):
    return n
@task
def main():
    charge(1)
    pid = os.fork()
    if pid == 0:
        print("copy", flush=True)
        try:
            charge(2)
        except Exception as error:
            print(type(error).__name__, flush=True)
        return "of the copy"
    os.waitpid(pid, 0)
    return charge(3)
"""
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == 3
    assert await logs_of(world, run_id) == ["copy", "StepError"]


@pytest.mark.parametrize("leave", ["pass", "os.setsid()", "os.setpgid(0, 0)"])
async def test_a_process_that_the_code_leaves_behind_does_not_hold_the_run(world: World, url: str, leave: str) -> None:
    body = f"""
import os, time
@task
def main():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        {leave}
        os.write(write, b"x")
        print("left behind", flush=True)
        time.sleep(40)
        os._exit(0)
    os.read(read, 1)
    return pid
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        assert (await ended(process, seconds=15))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert row["state"] == "Succeeded"
    assert await logs_of(world, run_id) == ["left behind"]
    _end(json.loads(row["result"]))


async def test_threads_that_the_code_leaves_behind_end_with_it(world: World, url: str) -> None:
    body = (
        "import threading\n@task\ndef main():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n    return 'fine'\n"
    )
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_child_that_is_killed_fails_with_what_its_memory_was(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    body = "import os, time\n@task\ndef main():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        (pid,) = await eventually(lambda: logs_of(world, run_id))
        await eventually(lambda: world.database.fetch("SELECT id FROM attempt WHERE memory_bytes > 1000000"))
        _end(int(pid))
        assert (await ended(process))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"]) == ("Failed", 1)
    assert "was ended by SIGKILL (" in row["message"]
    assert "MiB at the last heartbeat" in row["message"]


async def test_the_death_of_the_zygote_is_charged_to_infrastructure_and_ends_its_child(world: World, url: str) -> None:
    body = """
import os, signal, time
@task
def main():
    if current_run().attempt == 1:
        print(os.getpid(), flush=True)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return "second"
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        assert (await ended(process))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 1)
    assert "was ended by SIGKILL" in json.loads(row["error"])["message"]
    (pid,) = await logs_of(world, run_id)
    assert await eventually(lambda: _gone(int(pid)))
    assert (await run_once(world, url))[0] == exit_codes.DONE


@pytest.mark.parametrize(
    ("module", "state", "says"),
    [
        ("import os\nprint('importing')\nos._exit(9)\n", "Failed", "ended with exit code 9 while it imported"),
        ("import os\nprint('importing')\nos.kill(os.getpid(), 11)\n", "Failed", "was ended by SIGSEGV while it"),
        # Process 1 ends it, or it finds that nobody hears it any more, whichever comes first.
        (
            "import os\nprint('importing')\nos.closerange(3, 99)\n",
            "Failed",
            "(was ended by SIGKILL|ended with exit code 1) while",
        ),
    ],
)
async def test_a_module_that_ends_the_process_when_imported_is_named(
    world: World, url: str, tmp_path: Path, module: str, state: str, says: str
) -> None:
    run_id, env = await _of_module(world, tmp_path, module)
    assert (await run_once(world, url, **env))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert row["state"] == state
    assert re.search(says, row["message"])


async def test_what_a_module_prints_while_it_is_imported_is_in_the_runs_log_once(
    world: World, url: str, tmp_path: Path
) -> None:
    module = "import os\nprint('importing', os.environ['KEY'])\nfrom windlass import task\n@task\ndef main(): pass\n"
    run_id, env = await _of_module(world, tmp_path, module)
    _, output = await run_once(world, url, **env, KEY="s3cr3t-value", WINDLASS_SECRET_ENV="KEY")
    assert await logs_of(world, run_id) == ["importing [redacted]"]
    assert output == "importing [redacted]\n"


async def test_an_import_that_never_ends_is_ended_by_the_timeout(world: World, url: str, tmp_path: Path) -> None:
    module = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    run_id, env = await _of_module(world, tmp_path, module, attempt_timeout=timedelta(milliseconds=300))
    assert (await run_once(world, url, **env))[0] == exit_codes.USER_FAILURE
    assert json.loads((await world.get(run_id))["error"])["type"] == "TimedOut"


async def test_sigterm_during_a_long_import_hands_the_run_back(world: World, url: str, tmp_path: Path) -> None:
    module = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    run_id, env = await _of_module(world, tmp_path, module)
    async with runner(world, url, **env, WINDLASS_GRACE="0.2") as process:
        await said(world, run_id, "importing")
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)


async def _of_module(world: World, folder: Path, text: str, **changes: Any) -> Any:
    """Submit a run of a module that lies in the image; return its id and the environment of such a pod."""
    (folder / "baked.py").write_text(text)
    run_id = await world.submit(a_task(**{"entrypoint": "baked:main", "source": None, "retry": ONCE, **changes}))
    return run_id, {"PYTHONPATH": str(folder), "WINDLASS_PRELOAD": "baked"}


async def _gone(pid: int) -> bool:
    return _state(pid) in ("", "Z")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
