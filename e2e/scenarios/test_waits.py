"""Runs that wait on a real cluster: no pod while they do, and on time when they are through."""

from datetime import datetime

import pytest

from e2e.support import SYSTEM, Space, a_run, a_task, address, kubectl

pytestmark = pytest.mark.usefixtures("release")

NAP = """
@step
def note(word):
    print(word)
    return word

@task
def main(nap):
    before = note("before")
    sleep_sync(nap)
    return [before, note("after")]
"""


def ran(ns: Space) -> list[str]:
    """Names of the runner pods that have not ended."""
    said = kubectl(
        "get", "pods", "-n", ns.name, "--field-selector=status.phase!=Succeeded,status.phase!=Failed", "-o", "name"
    )
    return said.split()


def test_a_run_sleeps_without_a_pod_and_goes_on_in_another(ns: Space) -> None:
    ns.apply(a_task("nap", NAP) + "---\n" + a_run("sleeper", "nap", payload="12s"))
    status = ns.wait("sleeper", state="Waiting")
    assert status["reason"] == "WaitingForTimer"
    assert "No pod is held meanwhile" in status["message"]
    first = status["podName"]
    kubectl("wait", f"pod/{first}", "-n", ns.name, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=8s")
    assert ran(ns) == []
    status = ns.wait("sleeper", state="Succeeded")
    assert status["result"] == ["before", "after"]
    assert (status["attempt"], status["failures"], status["podName"] != first) == (2, {"user": 0, "infra": 0}, True)
    assert ns.windlass("runs", "logs", "sleeper").stdout.splitlines() == ["before", "after"]


def test_a_waiting_run_is_cancelled_at_once(ns: Space) -> None:
    ns.apply(a_task("nap", NAP) + "---\n" + a_run("sleeper", "nap", payload="30d"))
    ns.wait("sleeper", state="Waiting")
    kubectl("patch", "wr", "sleeper", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    assert ns.wait("sleeper", state="Cancelled")["attempt"] == 1


@pytest.mark.alone
def test_timers_ring_within_a_second_while_one_of_two_replicas_is_killed(ns: Space) -> None:
    kubectl("scale", "deploy/windlass-api", "-n", SYSTEM, "--replicas=2")
    kubectl("rollout", "status", "deploy/windlass-api", "-n", SYSTEM, "--timeout=60s")
    try:
        ns.apply(a_task("nap", NAP))
        for n in range(4):
            ns.apply(a_run(f"sleeper-{n}", "nap", payload=f"{14 + n}s"))
        for n in range(4):
            ns.wait(f"sleeper-{n}", state="Waiting")
        pod = kubectl("get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=api", "-o", "name").split()[0]
        kubectl("delete", pod, "-n", SYSTEM, "--force", "--grace-period=0")
        for n in range(4):
            ns.wait(f"sleeper-{n}", state="Succeeded")
            with address() as url:
                (slept,) = [step for step in ns.rest(url).steps(f"sleeper-{n}") if step["kind"] == "sleep"]
            took = datetime.fromisoformat(slept["finishedAt"]) - datetime.fromisoformat(slept["startedAt"])
            assert 14 + n <= took.total_seconds() < 15 + n
    finally:
        kubectl("scale", "deploy/windlass-api", "-n", SYSTEM, "--replicas=1")
        kubectl("rollout", "status", "deploy/windlass-api", "-n", SYSTEM, "--timeout=60s")
