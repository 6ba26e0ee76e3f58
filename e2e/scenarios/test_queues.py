"""Queues with kubectl: limits, pauses, and why a run does not start."""

import json

import pytest

from e2e.support import Space, a_run, a_task, kubectl

pytestmark = pytest.mark.usefixtures("release")

HOLDS = """
@task
async def main():
    await wait_for_event("go", timeout="1h")
"""
LASTS = """
import time

@task
def main():
    time.sleep(600)
"""


def a_queue(name: str, spec: str) -> str:
    """Return a Queue, its spec in YAML's flow style."""
    return f"apiVersion: windlass.dev/v1alpha1\nkind: Queue\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def test_two_tasks_keep_the_limit_of_their_queue_together(ns: Space) -> None:
    ns.apply(a_task("charge", LASTS, queue="payments") + "---\n" + a_task("refund", LASTS, queue="payments"))
    ns.apply(a_run("first", "charge"))
    assert "There is no Queue" in ns.wait("first", state="Queued", reason="QueueNotFound")["message"]
    ns.apply(a_queue("payments", "{concurrency: 1}"))
    ns.wait("first", state="Running")
    ns.apply(a_run("second", "refund"))

    message = ns.wait("second", state="Queued", reason="ConcurrencyLimit")["message"]

    assert message == "Queue 'payments' runs 1 of at most 1 at once."
    explained = ns.windlass("explain", "second").stdout
    assert "ConcurrencyLimit: Queue 'payments' runs 1 of at most 1 at once." in explained
    full = "jsonpath={.status.running}/{.status.queued}"
    kubectl("wait", "queue/payments", "-n", ns.name, "--for=jsonpath={.status.queued}=1", "--timeout=20s")
    assert kubectl("get", "queue", "payments", "-n", ns.name, "-o", full) == "1/1"
    assert "payments" in ns.windlass("queues", "list").stdout
    kubectl("delete", "run", "first", "-n", ns.name)
    ns.wait("second", state="Running")


def test_a_paused_queue_starts_no_pod_and_a_waiting_run_holds_no_place(ns: Space) -> None:
    ns.apply(a_queue("hold", "{concurrency: 1}") + "---\n" + a_task("hold", HOLDS))
    ns.apply(a_run("one", "hold"))
    ns.wait("one", state="Waiting")
    ns.apply(a_run("two", "hold"))
    ns.wait("two", state="Waiting")
    kubectl("patch", "queue", "hold", "-n", ns.name, "--type=merge", "-p", json.dumps({"spec": {"paused": True}}))
    ns.apply(a_run("three", "hold"))
    ns.wait("three", state="Queued", reason="Paused")
    assert len(kubectl("get", "pods", "-n", ns.name, "-o", "name").split()) == 2
    kubectl("patch", "queue", "hold", "-n", ns.name, "--type=merge", "-p", json.dumps({"spec": {"paused": False}}))
    ns.wait("three", state="Waiting")


def test_a_run_that_is_late_expires(ns: Space) -> None:
    ns.apply(a_queue("late", "{paused: true}") + "---\n" + a_task("late", LASTS))
    ns.apply(a_run("late", "late", queueTTL="1s"))

    status = ns.wait("late", state="Expired")

    assert status["reason"] == "QueueTTLExpired"
    finished = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert finished["Finished"] == ("True", "Expired")
