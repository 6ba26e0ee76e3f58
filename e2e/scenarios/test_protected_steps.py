"""Protected steps as somebody sees them who runs the cluster: annotations of pods, while a step runs and not longer."""

import json
import time

import pytest

from e2e.support import Space, a_run, a_task, kubectl

pytestmark = pytest.mark.usefixtures("release")

TRAIN = """
import time

@step(protect=True)
def train():
    time.sleep(6)
    return 1

@step
def report():
    time.sleep(8)
    return 2

@task
def main():
    return [train(), report()]
"""
MARKS = {
    "windlass.dev/do-not-disrupt": "true",
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
SAFE = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}


def annotations(ns: Space, pod: str) -> dict[str, str]:
    """Return those of a pod that say whether it may be removed."""
    body = json.loads(kubectl("get", "pod", pod, "-n", ns.name, "-o", "json"))
    return {k: v for k, v in body["metadata"].get("annotations", {}).items() if k in MARKS}


def until(ns: Space, pod: str, wanted: dict[str, str], seconds: float = 7) -> None:
    """Wait until a pod's annotations are these."""
    end = time.monotonic() + seconds
    while (found := annotations(ns, pod)) != wanted:
        assert time.monotonic() < end, f"{found} after {seconds} s"
        time.sleep(0.2)


def test_a_pod_is_kept_while_a_protected_step_runs_and_not_afterwards(ns: Space) -> None:
    template = {"metadata": {"annotations": SAFE}}
    ns.apply(a_task("train", TRAIN, podTemplate=template) + "---\n" + a_run("kept", "train"))
    pod = ns.pod_of("kept", currentStep="train")
    assert annotations(ns, pod) == MARKS, "from before the body began"
    ns.wait("kept", currentStep="train", protected=True)
    assert "running, protected" in ns.windlass("runs", "get", "kept").stdout
    assert ns.pod_of("kept", currentStep="report") == pod
    until(ns, pod, SAFE)  # what the Task itself says holds again
    status = ns.wait("kept", state="Succeeded")
    assert status["result"] == [1, 2]
    assert "protected" not in status


def test_a_drained_node_lets_a_protected_step_finish(ns: Space) -> None:
    ns.apply(a_task("train", TRAIN) + "---\n" + a_run("drained", "train"))
    pod = ns.pod_of("drained", currentStep="train")
    kubectl("delete", "pod", pod, "-n", ns.name, "--wait=false")
    status = ns.wait("drained", state="Succeeded")
    assert (status["failures"], status["result"]) == ({"user": 0, "infra": 0}, [1, 2])
    shown = [line.split() for line in ns.windlass("runs", "get", "drained").stdout.splitlines()]
    assert [line[:3] for line in shown if line[:1] in (["train"], ["report"])] == [
        ["train", "succeeded", "1"], ["report", "succeeded", "2"],
    ]  # fmt: skip
