"""Durable steps over HTTP, as a container task's command uses them: with curl, as the how-to page shows it."""

import json
import re
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

TWICE = RetryPolicy(max_attempts=2, min_delay=timedelta(0), jitter="none")
PAGE = Path(__file__).parents[2] / "docs/how-to/container-tasks.md"


async def logs_of(world: World, run_id: UUID) -> list[str]:
    return [line["text"] for line in await world.runs.logs(run_id, after=(0, 0), limit=1000)]


async def finished(world: World, url: str, shim: Path) -> int:
    async with container_pod(world, url, shim) as pod:
        return await pod.finished()


async def row_after(world: World, url: str, shim: Path, script: str, **changes: Any) -> dict[str, Any]:
    """Run a script in one pod and return the run."""
    run_id = await world.submit(sh(script, **changes))
    await finished(world, url, shim)
    return await world.get(run_id)


def the_pages_script() -> str:
    (script,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", PAGE.read_text(), re.DOTALL)
    return str(script)


async def test_the_script_of_the_how_to_page_runs_each_step_once_over_two_attempts(
    world: World, url: str, shim: Path
) -> None:
    run_id = await world.submit(sh(the_pages_script(), retry=TWICE), payload={"orderId": 7})
    assert await finished(world, url, shim) == exit_codes.USER_FAILURE
    assert await finished(world, url, shim) == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", {"charged": 7, "shipped": True})
    assert await logs_of(world, run_id) == ["charging 7", "the carrier does not answer", "shipping"]
    steps = await world.runs.steps(run_id, after=0, limit=10)
    assert [(s["key"], s["state"]) for s in steps] == [("charge", "succeeded"), ("ship", "succeeded")]


STATUS = 'curl -s -o body -w "%{http_code} %{content_type}\\n"'


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("$WINDLASS_URL/steps/new", 404, "StepNotSaved"),
        ("-d '{' $WINDLASS_URL/steps/a", 422, "ResultNotSerializable"),
        ("-d NaN $WINDLASS_URL/steps/a", 422, "ResultNotSerializable"),
        ("$WINDLASS_URL/elsewhere/a", 400, "InvalidRequest"),
        ("${WINDLASS_URL%/*}/steps/a", 403, "Forbidden"),
        ("-d 1 ${WINDLASS_URL%/*}/guessed/steps/a", 403, "Forbidden"),
        ("$WINDLASS_URL/steps/", 400, "InvalidRequest"),
        ("$WINDLASS_URL/steps/a%23b", 400, "InvalidRequest"),
        ("$WINDLASS_URL/steps/a/failure", 400, "InvalidRequest"),
        ("-H 'Transfer-Encoding: chunked' -d 1 $WINDLASS_URL/steps/a", 411, "InvalidRequest"),
        ("-H 'Content-Length: 9000000' -d 1 $WINDLASS_URL/steps/a", 413, "ResultTooLarge"),
        ("-X DELETE $WINDLASS_URL/steps/a", 405, "MethodNotAllowed"),
    ],
)
async def test_a_call_that_cannot_work_is_answered_with_a_code_and_does_no_harm(
    world: World, url: str, shim: Path, call: str, status: int, code: str
) -> None:
    script = f"cd $(mktemp -d); {STATUS} {call}; cat body; echo; {STATUS} -d 1 $WINDLASS_URL/steps/fine"
    run_id = await world.submit(sh(script))
    await finished(world, url, shim)
    said, body, after = await logs_of(world, run_id)
    assert said == f"{status} application/json"
    assert json.loads(body)["code"] == code
    assert json.loads(body)["message"]
    assert after.startswith("204")
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_saving_twice_is_fine_and_saving_another_value_is_refused(world: World, url: str, shim: Path) -> None:
    script = f"cd $(mktemp -d); for n in 1 1 2; do {STATUS} -d $n $WINDLASS_URL/steps/a; done; cat body"
    run_id = await world.submit(sh(script))
    await finished(world, url, shim)
    *statuses, body = await logs_of(world, run_id)
    assert [s.split()[0] for s in statuses] == ["204", "204", "409"]
    assert json.loads(body)["code"] == "StepAlreadySaved"


async def test_a_saved_value_is_never_given_out_for_other_arguments(world: World, url: str, shim: Path) -> None:
    script = """
order=$WINDLASS_ATTEMPT
curl -sf "$WINDLASS_URL/steps/charge?order=$order" > $WINDLASS_RESULT_FILE && exit 0
curl -sf -d "$order" "$WINDLASS_URL/steps/charge?order=$order"
exit 1
"""
    run_id = await world.submit(sh(script, retry=RetryPolicy(max_attempts=5, min_delay=timedelta(0), jitter="none")))
    await finished(world, url, shim)
    assert (await world.get(run_id))["state"] == "Queued"
    await finished(world, url, shim)
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["result"]) == ("Suspended", "Divergence", None)
    assert "Step 'charge' was begun with other arguments" in row["message"]


async def test_a_failed_step_is_shown_and_runs_again_with_the_next_attempt(world: World, url: str, shim: Path) -> None:
    script = """
curl -s -o /dev/null "$WINDLASS_URL/steps/ship"
test "$WINDLASS_ATTEMPT" = 2 && exec curl -sf -d '"ok"' "$WINDLASS_URL/steps/ship"
curl -sf -d "the carrier does not answer" "$WINDLASS_URL/steps/ship/failure"
exit 1
"""
    run_id = await world.submit(sh(script, retry=TWICE))
    await finished(world, url, shim)
    (step,) = await world.runs.steps(run_id, after=0, limit=10)
    assert (step["state"], json.loads(step["error"])["message"]) == ("failed", "the carrier does not answer")
    await finished(world, url, shim)
    (step,) = await world.runs.steps(run_id, after=0, limit=10)
    assert (step["state"], (await world.get(run_id))["state"]) == ("succeeded", "Succeeded")


async def test_a_large_value_is_kept_and_given_back_whole(world: World, url: str, shim: Path) -> None:
    script = """
cd $(mktemp -d)
(printf '"'; head -c 3000000 /dev/zero | tr '\\0' x; printf '"') > value
curl -sf --data-binary @value $WINDLASS_URL/steps/big
curl -sf $WINDLASS_URL/steps/big | cmp - value && curl -sf $WINDLASS_URL/steps/big | cmp - value
"""
    assert (await row_after(world, url, shim, script))["state"] == "Succeeded"


async def test_steps_of_parallel_processes_are_all_saved(world: World, url: str, shim: Path) -> None:
    script = "for n in $(seq 20); do curl -sf -d $n $WINDLASS_URL/steps/part-$n & done; wait"
    run_id = await world.submit(sh(script))
    await finished(world, url, shim)
    steps = await world.runs.steps(run_id, after=0, limit=50)
    assert sorted(s["key"] for s in steps) == sorted(f"part-{n}" for n in range(1, 21))


async def test_the_command_stops_when_its_attempt_is_closed_and_its_step_is_refused(
    world: World, url: str, shim: Path
) -> None:
    script = 'echo "on it"; while :; do n=$((n+1)); curl -s -d 1 $WINDLASS_URL/steps/late-$n >/dev/null; done'
    run_id = await world.submit(sh(script))
    async with container_pod(world, url, shim) as pod:
        await eventually(lambda: world.runs.steps(run_id, after=0, limit=1000))
        (attempt,) = await world.database.fetch("SELECT id FROM attempt")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
        before = await world.runs.steps(run_id, after=0, limit=1000)
        assert await pod.finished() == exit_codes.LEASE_LOST
    assert await world.runs.steps(run_id, after=0, limit=1000) == before


async def test_a_saved_value_that_cannot_be_read_ends_the_attempt_before_the_step_runs_again(
    world: World, url: str, shim: Path
) -> None:
    script = """
curl -sf -o /dev/null $WINDLASS_URL/steps/big && exit 0
echo ran
(printf '"'; head -c 100000 /dev/zero | tr '\\0' x; printf '"') | curl -sf --data-binary @- $WINDLASS_URL/steps/big
exit 1
"""
    run_id = await world.submit(sh(script, retry=TWICE))
    await finished(world, url, shim)
    await world.database.fetch("UPDATE blob SET data = NULL")
    await finished(world, url, shim)
    assert await logs_of(world, run_id) == ["ran"]
    row = await world.get(run_id)
    assert row["state"] == "Failed"
    assert "A step could not be read or saved. Blob" in row["message"]


async def test_a_saved_value_is_given_out_as_often_as_it_is_asked_for(world: World, url: str, shim: Path) -> None:
    script = """
test "$WINDLASS_ATTEMPT" = 2 || { curl -sf -d 7 $WINDLASS_URL/steps/a; curl -sf $WINDLASS_URL/steps/a; exit 1; }
for n in 1 2 3; do curl -sf $WINDLASS_URL/steps/a & done; wait
"""
    run_id = await world.submit(sh(script, retry=TWICE))
    await finished(world, url, shim)
    await finished(world, url, shim)
    assert await logs_of(world, run_id) == ["7", "777"]
