"""The real runner against the real API and a real ledger: what users' code sees and what the ledger keeps."""

import asyncio
import json
import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from tests.support.api_server import serving
from tests.support.eventually import eventually
from tests.support.runner import ONCE, code, logs_of, run_once, runner
from tests.support.world import World, a_task
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes


async def test_a_run_of_inline_code_succeeds(world: World, url: str) -> None:
    body = "@task\ndef main(order):\n    print('order', order['id'])\n    return {'total': 3 * order['id']}\n"
    run_id = await world.submit(code(body), payload={"id": 7})
    exit_code, output = await run_once(world, url)
    row = await world.get(run_id)
    assert (exit_code, row["state"], json.loads(row["result"])) == (exit_codes.DONE, "Succeeded", {"total": 21})
    assert await logs_of(world, run_id) == ["order 7"]
    assert "order 7" in output


async def test_an_async_run_keeps_its_steps_over_a_failure_and_runs_none_again(world: World, url: str) -> None:
    body = """
import os
@step
async def charge(n):
    print("charging", n)
    return {"charged": n}
@task
async def main():
    a, b = await gather(charge(1), charge(2))
    if current_run().attempt == 1:
        raise ValueError("not yet")
    return [a, b]
"""
    run_id = await world.submit(code(body, retry=RetryPolicy(max_attempts=2, min_delay=timedelta(0))))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    assert (await world.get(run_id))["state"] == "Queued"
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert json.loads(row["result"]) == [{"charged": 1}, {"charged": 2}]
    assert sorted(await logs_of(world, run_id)) == ["charging 1", "charging 2"]
    steps = await world.runs.steps(run_id, after=0, limit=10)
    assert sorted(s["key"] for s in steps) == ["charge", "charge#2"]


async def test_a_large_step_result_and_a_large_result_become_blobs(world: World, url: str) -> None:
    body = """
@step
def big():
    return "x" * 1_000_000
@task
def main():
    return big() + "y"
"""
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["result"], row["result_size"]) == (None, 1_000_003)


async def test_a_failure_carries_type_message_and_the_users_own_lines(world: World, url: str) -> None:
    run_id = await world.submit(code("@task\ndef main():\n    raise ValueError('no such order')\n"))
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    error = json.loads((await world.get(run_id))["error"])
    assert (error["type"], error["message"]) == ("ValueError", "no such order")
    assert 'File "job.py", line 4, in main' in error["traceback"]
    assert "execution.py" not in error["traceback"]


@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        ("def main(:\n", "SourceSyntaxError", "job.py:2:"),
        ("import nothing_like_this\n", "EntrypointImportFailed", "job.py:2: "),
        ("x = 1\n", "EntrypointImportFailed", "'main' does not exist"),
        ("@task\ndef main():\n    return object()\n", "ResultNotSerializable", "object"),
        ("@task\ndef main(n: int):\n    return n\n", "PayloadInvalid", "NoneType"),
    ],
)
async def test_code_that_cannot_work_fails_at_once_with_its_reason(
    world: World, url: str, body: str, reason: str, says: str
) -> None:
    run_id = await world.submit(code(body, retry=RetryPolicy(max_attempts=3)))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", reason)
    assert says in row["message"]


async def test_a_child_that_is_killed_is_reported_by_the_name_of_the_signal(world: World, url: str) -> None:
    run_id = await world.submit(code("import os\n@task\ndef main():\n    os.kill(os.getpid(), 11)\n"))
    await run_once(world, url)
    assert "SIGSEGV" in (await world.get(run_id))["message"]


async def test_sys_exit_is_a_failure_of_the_code(world: World, url: str) -> None:
    run_id = await world.submit(code("import sys\n@task\ndef main():\n    sys.exit(0)\n"))
    await run_once(world, url)
    assert "sys.exit(0)" in (await world.get(run_id))["message"]


async def test_an_attempt_that_takes_too_long_is_ended_and_retried(world: World, url: str) -> None:
    body = "import time\n@task\ndef main():\n    time.sleep(60)\n"
    task = code(body, retry=RetryPolicy(max_attempts=2), attempt_timeout=timedelta(milliseconds=300))
    run_id = await world.submit(task)
    assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"]) == ("Queued", 1)
    assert json.loads(row["error"])["class"] == "timeout"


async def test_running_time_over_all_attempts_ends_the_run(world: World, url: str) -> None:
    body = "import time\n@task\ndef main():\n    time.sleep(60)\n"
    run_id = await world.submit(code(body, timeout=timedelta(milliseconds=300), retry=RetryPolicy(max_attempts=5)))
    await run_once(world, url)
    assert (await world.get(run_id))["state"] == "TimedOut"


async def test_sigterm_hands_the_run_back_without_using_an_attempt(world: World, url: str) -> None:
    run_id = await world.submit(
        code("import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(60)\n")
    )
    async with runner(world, url, WINDLASS_GRACE="0.2") as process:
        await eventually(lambda: logs_of(world, run_id), lambda lines: lines == ["on it"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)


async def test_sigterm_lets_a_child_finish_within_the_grace(world: World, url: str) -> None:
    body = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(0.5)\n    return 'done'\n"
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await eventually(lambda: logs_of(world, run_id), lambda lines: lines == ["on it"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_pod_that_finds_nothing_ends_with_its_own_code(world: World, url: str) -> None:
    run_id = await world.submit(code("@task\ndef main(): pass\n"))
    await world.pods.start_due()
    await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
    assert (await run_once(world, url))[0] == exit_codes.NOTHING_TO_CLAIM


async def test_a_runner_whose_attempt_was_closed_stops_its_child_and_writes_nothing(world: World, url: str) -> None:
    body = """
import time
@step
def late():
    return 1
@task
def main():
    print('on it', flush=True)
    while True:
        time.sleep(0.05)
        late()
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await eventually(lambda: logs_of(world, run_id), lambda lines: lines == ["on it"])
        (attempt,) = await world.database.fetch("SELECT id FROM attempt")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
        before = await world.runs.steps(run_id, after=0, limit=1000)
        assert await asyncio.wait_for(process.wait(), 20) == exit_codes.LEASE_LOST
    assert await world.runs.steps(run_id, after=0, limit=1000) == before


async def test_user_code_cannot_read_the_pods_credential(world: World, url: str) -> None:
    body = """
import os
@task
def main():
    found = [k for k in os.environ if "CREDENTIAL" in k]
    for pid in (os.getppid(), open(f"/proc/{os.getppid()}/stat").read().rsplit(")", 1)[1].split()[1]):
        try:
            found += [e for e in open(f"/proc/{pid}/environ").read().split("\\0") if "CREDENTIAL" in e]
        except PermissionError:
            pass
    return found
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await asyncio.wait_for(process.wait(), 30)
    result = json.loads((await world.get(run_id))["result"])
    # Root may read everything; there the test can only show that the child's own environment is clean.
    assert result == [] or os.geteuid() == 0
    assert not [entry for entry in result if "=" not in entry]


async def test_ten_thousand_lines_arrive_complete_in_order_and_without_secrets(world: World, url: str) -> None:
    body = "import os\n@task\ndef main():\n    for n in range(10_000):\n        print(n, os.environ['KEY'])\n"
    run_id = await world.submit(code(body))
    exit_code, output = await run_once(world, url, KEY="s3cr3t-value", WINDLASS_SECRET_ENV="KEY")
    assert exit_code == exit_codes.DONE
    assert await logs_of(world, run_id) == [f"{n} [redacted]" for n in range(10_000)]
    assert "s3cr3t-value" not in output


async def test_the_result_waits_for_an_api_that_is_away(world: World) -> None:
    body = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(0.5)\n    return 'kept'\n"
    run_id = await world.submit(code(body))
    async with serving(world) as url:
        port = int(url.rsplit(":", 1)[1])
        started = runner(world, url)
        process = await started.__aenter__()
        await eventually(lambda: logs_of(world, run_id), lambda lines: lines == ["on it"])
    async with serving(world, port=port):
        assert await asyncio.wait_for(process.wait(), 30) == exit_codes.DONE
    await started.__aexit__(None, None, None)
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_code_that_starts_threads_at_import_runs_in_a_fresh_interpreter(
    world: World, url: str, tmp_path: Any
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nfrom windlass import task\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "@task\ndef main():\n    return 'fine'\n"
    )
    run_id = await world.submit(a_task(entrypoint="threaded:main", source=None, retry=ONCE))
    await run_once(world, url, PYTHONPATH=str(tmp_path), WINDLASS_PRELOAD="threaded")
    assert (await world.get(run_id))["state"] == "Succeeded"
    assert any("fresh interpreter" in line for line in await logs_of(world, run_id))


async def test_a_result_that_the_api_refuses_fails_the_run_in_the_apis_words(world: World, url: str) -> None:
    body = (
        "import json\nimport windlass.serialization as s\n"
        "s._encode_plain = lambda value, what: b'[' * 300 + b']' * 300\n"
        "@task\ndef main():\n    return 1\n"
    )
    run_id = await world.submit(code(body), name="job")
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "ResultNotSerializable")
    assert row["message"] == "The result was refused: PayloadInvalid: result is nested deeper than 200 levels."
