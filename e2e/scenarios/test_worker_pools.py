"""Worker pools with kubectl: pods that take one run after the other, come with work, and go without."""

import json
import time
from collections.abc import Callable

import pytest

from e2e.support import Space, a_run, a_task, kubectl

pytestmark = pytest.mark.usefixtures("release")

QUICK = """
import time

@task
def main():
    time.sleep(1)
    return "done"
"""
POOL = {"isolation": "Pool", "pool": "fast", "resources": {}}


def a_pool(spec: str) -> str:
    """Return a WorkerPool, its spec in YAML's flow style."""
    return f"apiVersion: windlass.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: fast}}\nspec: {spec}\n"


def pods(ns: Space) -> list[str]:
    """Return the names of the pool's pods that run or are on their way."""
    shown = kubectl("get", "pods", "-n", ns.name, "-l", "windlass.dev/pool=fast", "-o", "json")
    return [
        pod["metadata"]["name"]
        for pod in json.loads(shown)["items"]
        if pod["status"]["phase"] in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
    ]


def until(ns: Space, good: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
    """Wait until the pods of the pool are as they should be."""
    end = time.monotonic() + seconds
    while not good(found := pods(ns)):
        assert time.monotonic() < end, f"{found} after {seconds} s"
        time.sleep(0.3)
    return found


def test_a_pool_comes_with_work_and_goes_without(ns: Space) -> None:
    ns.apply(a_task("quick", QUICK, **POOL))
    ns.apply(a_run("first", "quick"))
    assert "There is no WorkerPool" in ns.wait("first", state="Queued", reason="PoolNotFound")["message"]
    ns.apply(a_pool("{slots: 4, maxReplicas: 3, scaleDownAfter: 5s}"))
    ns.wait("first", state="Succeeded", result="done")
    ns.apply("---\n".join(a_run(f"more-{n}", "quick") for n in range(12)))

    used = {str(ns.wait(f"more-{n}", state="Succeeded")["podName"]) for n in range(12)}

    assert len(used) <= 3
    assert "fast" in ns.windlass("pools", "list").stdout
    until(ns, lambda found: not found)
    kubectl("wait", "workerpool/fast", "-n", ns.name, "--for=jsonpath={.status.replicas}=0", "--timeout=20s")
    kubectl("wait", "workerpool/fast", "-n", ns.name, "--for=condition=Ready", "--timeout=20s")


def test_a_template_that_changes_replaces_the_pods_and_kubectl_scales_them(ns: Space) -> None:
    ns.apply(a_pool("{minReplicas: 1, maxReplicas: 4}") + "---\n" + a_task("quick", QUICK, **POOL))
    (old,) = until(ns, lambda found: len(found) == 1)
    kubectl("wait", "workerpool/fast", "-n", ns.name, "--for=jsonpath={.status.ready}=1", "--timeout=60s")
    ns.apply(a_run("before", "quick"))
    assert ns.wait("before", state="Succeeded")["podName"] == old
    ns.apply(a_pool("{minReplicas: 1, maxReplicas: 4, podTemplate: {metadata: {labels: {team: checkout}}}}"))

    (new,) = until(ns, lambda found: len(found) == 1 and found != [old])

    assert kubectl("get", "pod", new, "-n", ns.name, "-o", "jsonpath={.metadata.labels.team}") == "checkout"
    kubectl("scale", "workerpool", "fast", "-n", ns.name, "--replicas=2")
    until(ns, lambda found: len(found) == 2)
    kubectl("scale", "workerpool", "fast", "-n", ns.name, "--replicas=0")
    until(ns, lambda found: not found)


def test_a_task_in_a_pool_has_no_resources_of_its_own(ns: Space) -> None:
    with pytest.raises(AssertionError) as refused:
        ns.apply(a_task("heavy", QUICK, **{**POOL, "resources": {"limits": {"memory": "1Gi"}}}))
    assert "Set resources of the WorkerPool" in str(refused.value)


SHARED = """
import asyncio
import os
ran = []

@step
async def one(n):
    return os.getpid()

@task
async def main(n):
    ran.append(n)
    first = await one(n)
    if n == 0 and current_run().attempt == 1:
        await asyncio.sleep(60)
    await sleep("1s")
    child = await double.trigger_and_wait(n)
    return {"same": first == os.getpid(), "ran": len(ran), "child": child}

@task
def double(n):
    return 2 * n
"""


def test_runs_of_an_in_process_pool_share_a_process_and_leave_a_pod_that_must_go(ns: Space) -> None:
    """Steps, durable waits and child runs of eight runs in one process, whose pod is then deleted under one of them."""
    double = a_task("double", SHARED, **POOL).replace("job:main", "job:double")
    ns.apply(
        "---\n".join(
            [a_pool("{slots: 16, maxReplicas: 2, execution: InProcess}"), a_task("main", SHARED, **POOL), double]
        )
    )
    ns.apply("---\n".join(a_run(f"light-{n}", "main", payload=n) for n in range(8)))

    results = [ns.wait(f"light-{n}", state="Succeeded")["result"] for n in range(1, 8)]

    assert [result["child"] for result in results] == [2 * n for n in range(1, 8)]
    assert max(result["ran"] for result in results) > 8, "runs before and after their waits find each other's globals"
    (pod,) = pods(ns)
    assert ns.status("light-0")["podName"] == pod
    kubectl("delete", "pod", pod, "-n", ns.name, "--wait=false")
    status = ns.wait("light-0", state="Succeeded")
    assert status["podName"] != pod
    assert status["result"]["child"] == 0
    assert status["failures"] == {"user": 0, "infra": 0}
