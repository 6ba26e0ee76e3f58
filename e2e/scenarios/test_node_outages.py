"""What runs go through when the node's own parts fail: the kubelet, the API server, a drain."""

import base64
import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
import pytest

from e2e import invariants, node
from e2e.cluster.components import ETCD_URL
from e2e.cluster.settings import NODE_NAME
from e2e.support import SLOW, SYSTEM, Space, a_run, a_task, kubectl

pytestmark = [pytest.mark.usefixtures("release"), pytest.mark.alone, node.OURS]

UNHURT = {"user": 0, "infra": 0}
OUTAGE: Final = 60.0
"""Seconds for which the API server is away."""
STATES = """
SELECT resource_name, state, attempts, infra_failures FROM run JOIN project p ON p.id = project_id
 WHERE namespace = %s ORDER BY 1
"""
Measured = Callable[[str], None]


def sleeping(seconds: float) -> str:
    """Return a task of three steps, the second of which takes this long in the first attempt."""
    return SLOW.replace("sleep(5 ", f"sleep({seconds} ")


def test_a_dead_kubelet_loses_no_run_and_a_runner_that_dies_with_it_costs_a_lease(ns: Space) -> None:
    """The kubelet is away for longer than a lease. Pods go on without it; who ends meanwhile is missed by its lease."""
    ns.apply("---\n".join([a_task("slow", sleeping(600)), a_task("steady", sleeping(45)), a_run("orphan", "slow")]))
    ns.apply("---\n".join(a_run(f"steady-{number}", "steady") for number in range(2)))
    steady = {name: ns.pod_of(name, currentStep="two") for name in ("steady-0", "steady-1")}
    runner = node.first_processes(ns.name, ns.pod_of("orphan", currentStep="two"))
    with node.killed("kubelet"):
        for pid in runner:
            os.kill(pid, signal.SIGKILL)
        status = ns.wait("orphan", seconds=60, failures={"user": 0, "infra": 1})
        assert status["error"]["type"] == "LeaseExpired"
    for name, pod in steady.items():
        status = ns.wait(name, seconds=60, state="Succeeded")
        assert (status["attempt"], status["failures"], status["podName"]) == (1, UNHURT, pod)
    status = ns.wait("orphan", seconds=60, state="Succeeded")
    assert (status["result"], status["attempt"]) == ([1, 2, 3], 2)
    invariants.hold(ns)


def test_runs_finish_while_the_api_server_is_away_and_statuses_catch_up(ns: Space, measured: Measured) -> None:
    """For a minute nobody can be asked anything; one Run is removed meanwhile, and no watch will ever tell."""
    ends = [f"ends-{number}" for number in range(3)]
    ns.apply("---\n".join([a_task("short", sleeping(20)), a_task("long", sleeping(70)), a_task("slow", sleeping(600))]))
    ns.apply("---\n".join([*(a_run(name, "short") for name in ends), a_run("goes-on", "long"), a_run("gone", "slow")]))
    for name in (*ends, "goes-on", "gone"):
        ns.wait(name, currentStep="two")
    with psycopg.connect(**ledger_address(), autocommit=True) as ledger:
        with node.killed("kube-apiserver"):
            until = time.monotonic() + OUTAGE
            remove_from_etcd(ns, "gone")
            expected = [*((name, "Succeeded", 1, 0) for name in ends), ("goes-on", "Running", 1, 0)]
            while seen(ledger, ns) != [*expected, ("gone", "Running", 1, 0)]:
                assert time.monotonic() < until, seen(ledger, ns)
                time.sleep(0.5)
            time.sleep(max(0.0, until - time.monotonic()))
            assert seen(ledger, ns) == [*expected, ("gone", "Running", 1, 0)], "nothing is concluded from an outage"
            back = time.monotonic()
        for name in ends:
            assert ns.wait(name, seconds=60, state="Succeeded")["failures"] == UNHURT
        caught_up = time.monotonic() - back
        status = ns.wait("goes-on", seconds=60, state="Succeeded")
        assert (status["attempt"], status["failures"]) == (1, UNHURT)
        while ("gone", "Cancelled", 1, 0) not in seen(ledger, ns):
            assert time.monotonic() < back + 120, seen(ledger, ns)
            time.sleep(0.5)
    cancelled = time.monotonic() - back
    measured(
        f"API server away for {OUTAGE:.0f} s: {caught_up:.1f} s after its repair began all is shown, and "
        f"a Run that went unseen is cancelled after {cancelled:.1f} s"
    )
    invariants.hold(ns)


def test_a_drained_node_hands_its_runs_over_and_no_attempt_is_charged(ns: Space) -> None:
    names = [f"drained-{number}" for number in range(3)]
    ns.apply("---\n".join([a_task(ns.name, sleeping(600)), *(a_run(name, ns.name) for name in names)]))
    before = {name: ns.pod_of(name, currentStep="two") for name in names}
    try:
        kubectl(
            "drain",
            NODE_NAME,
            f"--pod-selector=windlass.dev/task={ns.name}",
            "--force",
            "--ignore-daemonsets",
            "--timeout=60s",
        )
        for name in names:
            ns.wait(name, state="Queued", reason="Unschedulable")
    finally:
        kubectl("uncordon", NODE_NAME)
    for name in names:
        status = ns.wait(name, state="Succeeded")
        assert (status["result"], status["attempt"], status["failures"]) == ([1, 2, 3], 2, UNHURT)
        shown = ns.windlass("runs", "get", name).stdout
        assert any(line.split()[:2] == ["1", "Released"] and before[name] in line for line in shown.splitlines())
    invariants.hold(ns)


def ledger_address() -> dict[str, Any]:
    """Return how the node itself reaches the ledger: kubectl needs the API server, which will be away."""
    secret = json.loads(kubectl("get", "secret", "windlass-postgres", "-n", SYSTEM, "-o", "json"))["data"]
    address = kubectl("get", "pod", "windlass-postgres-0", "-n", SYSTEM, "-o", "jsonpath={.status.podIP}")
    return {"conninfo": base64.b64decode(secret["uri"]).decode(), "host": address}


def seen(ledger: psycopg.Connection[Any], ns: Space) -> list[tuple[Any, ...]]:
    """Return name, state, attempts and infrastructure failures of a namespace's runs."""
    return ledger.execute(STATES, [ns.name]).fetchall()


def remove_from_etcd(ns: Space, name: str) -> None:
    """Remove a Run behind the API server's back: no watch reports it, and only its absence is left to see."""
    key = base64.b64encode(f"/registry/windlass.dev/runs/{ns.name}/{name}".encode()).decode()
    etcd = http.client.HTTPConnection(ETCD_URL.partition("://")[2], timeout=10)
    etcd.request("POST", "/v3/kv/deleterange", json.dumps({"key": key}))
    assert json.load(etcd.getresponse()).get("deleted") == "1", "the Run was there"
    etcd.close()
