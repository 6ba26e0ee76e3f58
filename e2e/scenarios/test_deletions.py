"""What is deleted while runs are under way: Run, Task, and a whole namespace. Nothing hangs, nothing is lost unseen."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.support import SYSTEM, Space, a_run, a_task, kubectl, query, space

pytestmark = pytest.mark.usefixtures("release")

LATER = """
import os, time
@step
def one():
    print("one ran", flush=True)
@task
def main():
    one()
    time.sleep(3)
    if current_run().attempt == 1:
        raise ValueError("once more")
    return VERSION
"""
FOR_EVER = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(3600)\n"
HELLO = "@task\ndef main():\n    return 'hello'\n"
MANY = 50


def states(ns: Space) -> Counter[str]:
    """Return how many runs of a namespace the ledger has in each state; the API knows no namespace that is gone."""
    sql = "SELECT state, count(*) FROM run JOIN project p ON p.id = project_id WHERE namespace = :'ns' GROUP BY 1"
    return Counter({state: int(count) for state, count in query(sql, ns=ns.name)})


def eventually(ns: Space, expected: Counter[str], seconds: float) -> None:
    """Wait until the ledger has this."""
    until = time.monotonic() + seconds
    while (found := states(ns)) != expected:
        assert time.monotonic() < until, f"after {seconds} s {found}\n{complaints(ns)}"
        time.sleep(0.5)


def complaints(ns: Space, since: str = "") -> list[dict[str, object]]:
    """Return what the operator has complained about and names this namespace."""
    words = ["logs", "-n", SYSTEM, "deploy/windlass-operator", "-c", "operator"]
    lines = kubectl(*words, *([f"--since-time={since}"] if since else [])).splitlines()
    said = [json.loads(line) for line in lines if ns.name in line and line.startswith("{")]
    return [line for line in said if line["level"] in ("warning", "error", "critical")]


def shown(ns: Space, run_id: str) -> dict[str, Any]:
    """Return what the command line shows of a run."""
    return dict(json.loads(ns.windlass("runs", "get", run_id, "-o", "json").stdout))


@contextmanager
def no_operator() -> Iterator[None]:
    """Stop the operator, and start it again."""
    kubectl("scale", "deploy/windlass-operator", "--replicas=0", "-n", SYSTEM)
    try:
        kubectl(
            "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=operator", "-n", SYSTEM, "--timeout=60s"
        )
        yield
    finally:
        kubectl("scale", "deploy/windlass-operator", "--replicas=1", "-n", SYSTEM)
        kubectl("rollout", "status", "deploy/windlass-operator", "-n", SYSTEM, "--timeout=60s")


def fill(ns: Space) -> None:
    """Have many runs in flight, one of them without a resource: some run, the others wait for their pods."""
    runs = [a_run(f"many-{number}", "endless") for number in range(MANY - 1)]
    ns.apply("---\n".join([a_task("endless", FOR_EVER, retry={"maxAttempts": 1}), *runs]))
    ns.windlass("run", "endless")
    until = time.monotonic() + 90
    while (found := states(ns)).total() < MANY or found["Running"] < 5:
        assert time.monotonic() < until, f"only {found}"
        time.sleep(0.5)


def delete(ns: Space) -> float:
    """Delete a namespace and return after how many seconds it is gone."""
    began = time.monotonic()
    kubectl("delete", "namespace", ns.name, "--wait=false")
    kubectl("wait", "--for=delete", f"namespace/{ns.name}", "--timeout=60s")
    return time.monotonic() - began


def test_runs_finish_on_their_version_when_their_task_is_deleted_and_new_ones_wait_for_it(ns: Space) -> None:
    ns.apply(a_task("order", LATER.replace("VERSION", "'first'"), retry={"minDelay": "1s", "jitter": "none"}))
    ns.apply("---\n".join([a_run("one", "order"), a_run("two", "order")]))
    for name in ("one", "two"):
        ns.wait(name, state="Running")
    kubectl("delete", "tasks.windlass.dev", "order", "-n", ns.name)
    ns.apply(a_run("three", "order"))
    assert "Task 'order' is not in namespace" in ns.wait("three", state="Queued", reason="TaskNotFound")["message"]
    refused = ns.windlass("run", "order", check=False)
    assert (refused.returncode, "TaskNotFound" in refused.stderr) == (3, True)
    for name in ("one", "two"):
        status = ns.wait(name, state="Succeeded")
        assert (status["result"], status["attempt"], status["version"]) == ("first", 2, 1)
        assert ns.windlass("runs", "logs", name).stdout.splitlines() == ["one ran"]
    ns.apply(a_task("order", HELLO))
    assert ns.wait("three", state="Succeeded")["version"] == 2


def test_a_run_deleted_while_it_runs_is_cancelled_and_its_pod_goes(ns: Space) -> None:
    ns.apply(a_task("endless", FOR_EVER) + "---\n" + a_run("gone", "endless"))
    ns.wait_for_log("gone", "on it")
    status = ns.status("gone")
    kubectl("delete", "runs.windlass.dev", "gone", "-n", ns.name)
    until = time.monotonic() + 40
    while (found := shown(ns, status["runId"]))["state"] != "Cancelled":
        assert time.monotonic() < until, found
        time.sleep(0.5)
    ended = "--for=jsonpath={.status.phase}=Failed"
    kubectl("wait", ended, f"pod/{status['podName']}", "-n", ns.name, "--timeout=20s")
    assert "Its Run resource was deleted." in ns.windlass("runs", "get", status["runId"]).stdout


@pytest.mark.alone
def test_namespaces_deleted_with_many_runs_in_flight_go_within_a_minute_and_leave_nothing_behind(ns: Space) -> None:
    with space() as watched, space() as unwatched:
        fill(watched)
        assert delete(watched) < 60
        fill(unwatched)
        with no_operator():
            assert delete(unwatched) < 60
        for gone in (watched, unwatched):
            eventually(gone, Counter(Cancelled=MANY), seconds=90)
        quiet = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ns.apply(
            a_task("slow", "import time\n@task\ndef main():\n    time.sleep(8)\n") + "---\n" + a_run("after", "slow")
        )
        ns.wait("after", state="Succeeded", seconds=30)
        for gone in (watched, unwatched):
            assert len(complaints(gone)) < MANY, "some are fair, while it goes"
            assert complaints(gone, since=quiet) == []
