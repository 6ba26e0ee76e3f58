"""Who answers for a failed attempt, and what is left to read of it."""

import json

import pytest

from e2e.support import SLOW, Space, a_run, a_task, address, kubectl

pytestmark = pytest.mark.usefixtures("release")

GREEDY = """
import time
@task
def main():
    kept = []
    while True:
        kept.append(bytearray(4 << 20))
        time.sleep(0.01)
"""
TIDY = """
import asyncio
@task
async def main():
    try:
        print("working", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
"""
LIMITED = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}}


def test_code_that_reaches_its_memory_limit_is_told_so_and_answers_for_it(ns: Space) -> None:
    retry = {"maxAttempts": 2, "minDelay": "10ms"}
    ns.apply(a_task("greedy", GREEDY, resources=LIMITED, retry=retry) + "---\n" + a_run("greedy", "greedy"))
    status = ns.wait("greedy", state="Failed")
    assert (status["failures"], status["error"]["class"]) == ({"user": 2, "infra": 0}, "user")
    assert status["error"]["type"] == "OutOfMemory"
    assert "limit" in status["error"]["message"]


def test_an_evicted_pod_hands_its_run_over_and_its_last_state_can_be_read(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW.replace("sleep(5 ", "sleep(60 ")) + "---\n" + a_run("moved", "slow"))
    pod = ns.pod_of("moved", currentStep="two")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": ns.name}}
    path = f"/api/v1/namespaces/{ns.name}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    status = ns.wait("moved", state="Succeeded")
    assert status["failures"] == {"user": 0, "infra": 0}
    assert status["podName"] != pod
    shown = ns.windlass("runs", "get", "moved").stdout
    assert any(line.split()[:2] == ["1", "Released"] and pod in line for line in shown.splitlines())


def test_a_deleted_pod_leaves_its_events_with_the_attempt(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("killed", "slow"))
    pod = ns.pod_of("killed", currentStep="two")
    kubectl("delete", "pod", pod, "-n", ns.name, "--force", "--grace-period=0")
    ns.wait("killed", state="Succeeded")
    shown = ns.windlass("runs", "get", "killed").stdout
    [line] = [line for line in shown.splitlines() if line.split()[:2] == ["1", "Lost"]]
    assert f"PodDeleted: Pod {pod}: The pod was deleted." in line
    with address() as url:
        found = ns.rest(url).attempts("killed")[0]["pod"]
    assert found["node"]
    assert "Started" in [event["reason"] for event in found["lastState"]["events"]]


def test_a_pod_that_fits_nowhere_is_told_in_the_schedulers_own_words(ns: Space) -> None:
    ns.apply(a_task("vast", SLOW, resources={"requests": {"cpu": "4k"}}) + "---\n" + a_run("vast", "vast"))
    status = ns.wait("vast", state="Queued", reason="Unschedulable")
    assert "Insufficient cpu" in status["message"]
    ns.windlass("runs", "cancel", "vast")
    ns.wait("vast", state="Cancelled")


def test_a_run_that_waits_for_longer_than_its_start_timeout_fails_with_the_reason(ns: Space) -> None:
    ns.apply(a_task("stuck", SLOW, image="docker.io/windlass/missing:none", startTimeout="3s") + "---\n"
             + a_run("stuck", "stuck"))  # fmt: skip
    status = ns.wait("stuck", state="Failed", reason="ImagePullFailed")
    assert "This lasted for longer than startTimeout" in status["message"]


def test_a_cancelled_run_cleans_up_and_ends(ns: Space) -> None:
    ns.apply(a_task("tidy", TIDY) + "---\n" + a_run("tidy", "tidy"))
    ns.wait_for_log("tidy", "working")
    ns.windlass("runs", "cancel", "tidy")
    ns.wait("tidy", state="Cancelled")
    assert ns.windlass("runs", "logs", "tidy").stdout.splitlines() == ["working", "cleaned up"]


def test_a_second_run_with_the_key_is_a_handle_on_the_first(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("first", "slow", idempotencyKey="order-7"))
    first = ns.wait("first", currentStep="two")
    ns.apply(a_run("second", "slow", idempotencyKey="order-7"))
    second = ns.wait("second", reason="Deduplicated")
    assert second["runId"] == first["runId"]
    kubectl("delete", "runs.windlass.dev", "first", "-n", ns.name)
    status = ns.wait("second", state="Succeeded")
    assert (status["result"], status["attempt"]) == ([1, 2, 3], 1)
    again = ns.windlass("run", "slow", "--idempotency-key", "order-7", "--follow")
    assert json.loads(again.stdout.splitlines()[-1]) == [1, 2, 3]
    assert len(ns.windlass("runs", "list", "-o", "name").stdout.split()) == 1
