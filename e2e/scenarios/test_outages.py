"""What users see while a part of the system is away, and that nothing is lost by it."""

import json
import os
import signal
from pathlib import Path

import pytest

from e2e.support import SLOW, SYSTEM, Space, a_run, a_task, kubectl, run

pytestmark = [pytest.mark.usefixtures("release"), pytest.mark.alone]

LARGE = """
@step
def small():
    return "kept"
@step
def large():
    return "x" * 1_000_000
@task
def main():
    return [small(), len(large())]
"""


def test_the_operator_may_die_while_a_run_is_running(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("headless", "slow"))
    ns.wait("headless", currentStep="two")
    killed = ("delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--force")
    kubectl(*killed, "--grace-period=0")
    status = ns.wait("headless", state="Succeeded")
    assert status["failures"] == {"user": 0, "infra": 0}


def test_the_database_may_restart_while_a_run_is_running(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("patient", "slow"))
    ns.wait("patient", currentStep="two")
    kubectl("delete", "pod", "windlass-postgres-0", "-n", SYSTEM)
    status = ns.wait("patient", seconds=120, state="Succeeded")
    assert status["failures"] == {"user": 0, "infra": 0}
    assert status["attempt"] == 1


def test_while_the_database_is_away_the_api_says_so_and_runs_wait(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW))
    kubectl("scale", "statefulset/windlass-postgres", "--replicas=0", "-n", SYSTEM)
    try:
        kubectl("wait", "--for=delete", "pod/windlass-postgres-0", "-n", SYSTEM, "--timeout=60s")
        refused = ns.windlass("runs", "list", check=False)
        assert refused.returncode == 3
        assert "LedgerUnavailable" in refused.stderr
        ns.apply(a_run("waits", "slow"))
        assert ns.status("waits") == {}
    finally:
        kubectl("scale", "statefulset/windlass-postgres", "--replicas=1", "-n", SYSTEM)
    assert ns.wait("waits", seconds=120, state="Succeeded")["failures"] == {"user": 0, "infra": 0}


@pytest.mark.skipif(os.environ.get("WINDLASS_CLUSTER") == "existing", reason="the object store is somebody else's")
def test_while_the_object_store_is_away_a_large_result_waits_for_it(ns: Space) -> None:
    """The server stands still: connections are taken and nothing answers, the hardest way to be away."""
    server = json.loads(Path("/var/lib/windlass-cluster/run/versitygw.pid").read_text())["pid"]
    os.kill(server, signal.SIGSTOP)
    try:
        ns.apply(a_task("large", LARGE) + "---\n" + a_run("large", "large"))
        ns.wait("large", steps={"succeeded": 1, "failed": 0, "running": 0, "waiting": 0})
        assert run("kubectl", "wait", "--for=condition=Finished", "runs.windlass.dev/large", "-n", ns.name,
                   "--timeout=5s", check=False).returncode != 0  # fmt: skip
    finally:
        os.kill(server, signal.SIGCONT)
    status = ns.wait("large", seconds=120, state="Succeeded")
    assert status["result"] == ["kept", 1_000_000]
    assert (status["attempt"], status["failures"]) == (1, {"user": 0, "infra": 0})
