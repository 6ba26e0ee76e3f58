"""Runs that start runs on a real cluster: the parent holds no pod, a child fails, and all are seen as a tree."""

import json
from typing import Any

import pytest

from e2e.support import Space, a_run, a_task, kubectl

pytestmark = pytest.mark.usefixtures("release")

CODE = """
@task
def part(n):
    print(f"part {n}")
    if n == "sleeps":
        sleep_sync("30d")
    if n == 2:
        raise PermanentError("two is not possible")
    return n * 10

@task
async def main(numbers):
    done = await part.batch_trigger_and_wait(numbers)
    return [r.value if r.ok else r.error.failure_message for r in done]
"""


def start(ns: Space, numbers: list[Any]) -> None:
    """Apply both Tasks, and a Run of the parent."""
    part = a_task("part", CODE, entrypoint="job:part")
    ns.apply("---\n".join([part, a_task("whole", CODE), a_run("it", "whole", payload=numbers)]))


def tree(ns: Space) -> list[dict[str, Any]]:
    """Return the run and its children, as the command line does."""
    nodes: list[dict[str, Any]] = json.loads(ns.windlass("runs", "tree", "it", "-o", "json").stdout)
    return nodes


def test_a_parent_waits_for_its_children_without_a_pod_and_shows_them_as_a_tree(ns: Space) -> None:
    start(ns, [1, 2, 3])
    assert ns.wait("it", state="Waiting")["reason"] == "WaitingForRun"
    status = ns.wait("it", state="Succeeded")
    assert status["result"] == [10, "two is not possible", 30]
    assert (status["attempt"], status["failures"]) == (2, {"user": 0, "infra": 0})
    lines = ns.windlass("runs", "tree", "it").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["TASK", "whole", "├─ part", "├─ part", "└─ part"]
    whole, *parts = tree(ns)
    assert [part["state"] for part in parts] == ["Succeeded", "Failed", "Succeeded"]
    listed = ns.windlass("runs", "list", "--parent", whole["id"], "-o", "name").stdout.split()
    assert sorted(listed) == sorted(part["id"] for part in parts)
    assert f"Parent:   {whole['id']}" in ns.windlass("runs", "get", parts[0]["id"]).stdout
    assert ns.windlass("runs", "logs", parts[1]["id"]).stdout.splitlines()[0] == "part 2"


def test_cancelling_a_parent_with_kubectl_cancels_its_children(ns: Space) -> None:
    start(ns, ["sleeps", "sleeps"])
    ns.wait("it", state="Waiting")
    kubectl("patch", "wr", "it", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    ns.wait("it", state="Cancelled")
    for part in tree(ns)[1:]:
        ns.windlass("runs", "get", part["id"], "--watch", "--timeout", "60s", check=False)
    assert [(node["state"], node["reason"]) for node in tree(ns)] == [
        ("Cancelled", "Cancelled"),
        ("Cancelled", "ParentCancelled"),
        ("Cancelled", "ParentCancelled"),
    ]
