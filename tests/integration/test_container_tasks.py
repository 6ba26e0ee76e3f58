"""Container tasks: the real shim and runner, the real API and a real ledger. The main container is a process here."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.container_pod import container_pod, sh
from tests.support.eventually import eventually
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes


async def logs_of(world: World, run_id: UUID) -> list[str]:
    return [line["text"] for line in await world.runs.logs(run_id, after=(0, 0), limit=20_000)]


async def finished(world: World, url: str, shim: Path, **env: Any) -> tuple[int, str]:
    """Run one pod to its end; return the main container's exit code and what `kubectl logs` would show."""
    async with container_pod(world, url, shim, **env) as pod:
        code = await pod.finished()
        return code, pod.output()


async def test_a_script_gets_its_payload_and_its_result_file_is_the_result(world: World, url: str, shim: Path) -> None:
    task = sh('echo working; echo oops >&2; cp "$WINDLASS_PAYLOAD_FILE" "$WINDLASS_RESULT_FILE"')
    run_id = await world.submit(task, payload={"order": 7})
    code, output = await finished(world, url, shim)
    row = await world.get(run_id)
    assert (code, row["state"], json.loads(row["result"])) == (exit_codes.DONE, "Succeeded", {"order": 7})
    lines = await world.runs.logs(run_id, after=(0, 0), limit=10)
    assert sorted((line["stream"], line["text"]) for line in lines) == [("stderr", "oops"), ("stdout", "working")]
    assert "working" in output


async def test_a_run_without_payload_and_without_a_result_file_has_null_for_both(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh('cat "$WINDLASS_PAYLOAD_FILE"; echo'))
    await finished(world, url, shim)
    row = await world.get(run_id)
    assert (row["state"], row["result"], await logs_of(world, run_id)) == ("Succeeded", "null", ["null"])


async def test_the_program_learns_which_run_it_is_and_gets_no_credential(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh("env"), name="order")
    await finished(world, url, shim, env={"MODE": "live"})
    env = dict(line.partition("=")[::2] for line in await logs_of(world, run_id))
    assert {k: env[k] for k in ("MODE", "WINDLASS_RUN_ID", "WINDLASS_TASK", "WINDLASS_ATTEMPT")} == {
        "MODE": "live",
        "WINDLASS_RUN_ID": str(run_id),
        "WINDLASS_TASK": "order",
        "WINDLASS_ATTEMPT": "1",
    }
    assert not [name for name in env if "CREDENTIAL" in name or "TOKEN" in name]


async def test_an_exit_code_fails_the_attempt_with_the_last_lines_and_it_is_retried(
    world: World, url: str, shim: Path
) -> None:
    script = 'echo "no such order"; test "$WINDLASS_ATTEMPT" = 2 || exit 3'
    run_id = await world.submit(sh(script, retry=RetryPolicy(max_attempts=2, min_delay=timedelta(0))))
    assert (await finished(world, url, shim))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    error = json.loads(row["error"])
    assert (row["state"], row["user_failures"], error["type"]) == ("Queued", 1, "CommandFailed")
    assert error["message"] == "The command exited with code 3. Its last lines:\nno such order"
    assert (await finished(world, url, shim))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_signal_is_named(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh("kill -SEGV $$"))
    await finished(world, url, shim)
    assert (await world.get(run_id))["message"] == "The command was ended by SIGSEGV. It printed nothing."


@pytest.mark.parametrize(
    ("script", "reason", "says"),
    [
        ("printf '{\"a\":' > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "not JSON"),
        ("printf NaN > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "not JSON"),
        ("printf '\\377' > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "not UTF-8"),
        ("printf 1e400 > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "result file"),
        (": > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "is empty"),
        ("mkdir $WINDLASS_RESULT_FILE", "ResultNotSerializable", "not a regular file"),
        ("mkfifo $WINDLASS_RESULT_FILE", "ResultNotSerializable", "not a regular file"),
        ("head -c 100000 /dev/zero | tr '\\0' '[' > $WINDLASS_RESULT_FILE", "ResultNotSerializable", "deeply"),
        ("truncate -s 9000000 $WINDLASS_RESULT_FILE", "ResultTooLarge", "9000000 bytes; the limit is 8388608"),
    ],
)
async def test_a_result_file_that_cannot_be_a_result_fails_the_run_at_once(
    world: World, url: str, shim: Path, script: str, reason: str, says: str
) -> None:
    run_id = await world.submit(sh(script, retry=RetryPolicy(max_attempts=3)))
    assert (await finished(world, url, shim))[0] == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", reason)
    assert says in row["message"]


async def test_a_large_result_becomes_a_blob(world: World, url: str, shim: Path) -> None:
    script = "(printf '\"'; head -c 1000000 /dev/zero | tr \"\\0\" x; printf '\"') > $WINDLASS_RESULT_FILE"
    run_id = await world.submit(sh(script))
    assert (await finished(world, url, shim))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["result"], row["result_size"]) == (None, 1_000_002)


async def test_a_program_that_does_not_exist_fails_the_run_at_once_in_the_systems_words(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh("", retry=RetryPolicy(max_attempts=3)))
    async with container_pod(world, url, shim, "/bin/nothing-like-this") as pod:
        assert await pod.finished() == exit_codes.USER_FAILURE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "CommandNotStarted")
    assert row["message"] == "The command cannot be started: /bin/nothing-like-this: No such file or directory."


async def test_ten_thousand_lines_arrive_in_order_and_without_secrets(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh('seq 10000 | sed "s/$/ $KEY/"'))
    env = {"KEY": "s3cr3t-value", "WINDLASS_SECRET_ENV": "KEY"}
    _, output = await finished(world, url, shim, env=env)
    assert await logs_of(world, run_id) == [f"{n + 1} [redacted]" for n in range(10_000)]
    assert "s3cr3t-value" not in output


async def test_secrets_stay_out_of_the_failures_message(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh('echo "bad key $KEY"; exit 1'))
    await finished(world, url, shim, env={"KEY": "s3cr3t-value", "WINDLASS_SECRET_ENV": "KEY"})
    assert (await world.get(run_id))["message"].endswith("Its last lines:\nbad key [redacted]")


async def test_what_the_command_leaves_behind_ends_with_it(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh("sleep 1000 & echo $! > $WINDLASS_RESULT_FILE"))
    await finished(world, url, shim)
    row = await world.get(run_id)
    assert row["state"] == "Succeeded"

    async def alive() -> bool:
        try:
            os.kill(json.loads(row["result"]), 0)
        except ProcessLookupError:
            return False
        return True

    await eventually(alive, lambda is_alive: not is_alive)


async def test_a_pod_that_finds_nothing_ends_with_its_own_code(world: World, url: str, shim: Path) -> None:
    run_id = await world.submit(sh("echo never"))
    await world.pods.start_due()
    await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
    assert (await finished(world, url, shim))[0] == exit_codes.NOTHING_TO_CLAIM
