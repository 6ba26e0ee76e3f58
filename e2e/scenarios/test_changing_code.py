"""Code that changes under a run, as its owner sees it: Suspended with a reason, mended, resumed, done."""

import json

import pytest

from e2e.support import Space, a_run, a_task, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

# The second attempt asks for another step first, as code that was changed would.
BROKEN = """
@step
def charge():
    print("charging", flush=True)
    return 7
@step
def tax():
    return 1
@task
def main():
    if current_run().attempt > 1:
        tax()
    charge()
    raise RetryAt("0s", "the carrier does not answer")
"""
MENDED = """
@step
def charge():
    print("charging", flush=True)
    return 7
@task
def main():
    return {"charged": charge()}
"""


def test_a_run_whose_code_diverges_is_suspended_and_goes_on_after_a_fix(ns: Space) -> None:
    ns.apply(a_task("order", BROKEN) + "---\n" + a_run("order-1", "order"))
    status = ns.wait("order-1", state="Suspended")
    assert (status["reason"], status["failures"]["user"]) == ("Divergence", 1)
    assert "history has step 'charge'" in status["message"]
    assert "asks for step 'tax'" in status["message"]
    assert f"windlass runs resume {status['runId']}" in status["message"]
    columns = kubectl("get", "wr", "order-1", "-n", ns.name, "--no-headers").split()
    assert columns[1] == "Suspended"
    listed = ns.windlass("runs", "list", "--state", "Suspended", "-o", "name").stdout.split()
    assert listed == [status["runId"]]

    ns.apply(a_task("order", MENDED))
    assert ns.windlass("runs", "resume", "order-1").stdout == f"{status['runId']} Queued\n"
    done = ns.wait("order-1", state="Succeeded")
    assert (done["result"], done["version"]) == ({"charged": 7}, 2)
    assert ns.windlass("runs", "logs", "order-1").stdout == "charging\n"
    again = ns.windlass("runs", "resume", "order-1", check=False)
    assert (again.returncode, "RunNotSuspended" in again.stderr) == (3, True)


def test_a_suspended_run_can_be_cancelled_with_kubectl(ns: Space) -> None:
    ns.apply(a_task("order", BROKEN) + "---\n" + a_run("order-1", "order"))
    ns.wait("order-1", state="Suspended")
    patch = json.dumps({"spec": {"cancel": True}})
    run("kubectl", "patch", "wr", "order-1", "-n", ns.name, "--type=merge", "-p", patch)
    assert ns.wait("order-1", state="Cancelled")["reason"] == "Cancelled"
