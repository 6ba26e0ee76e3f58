"""Runs that ask people, on a real cluster: nobody decides in the name of somebody else."""

import json
import subprocess
import time
from typing import Any

import pytest
import yaml

from e2e.support import Space, a_run, a_task, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

ASKS = """
@step
def charge():
    print("charged", flush=True)
    return 80
@task
async def main():
    amount = charge()
    decision = await wait_for_approval(f"Refund {amount} EUR to order 7?", timeout="7d", details={"order": 7})
    return {"approved": decision.approved, "by": decision.by, "comment": decision.comment}
"""


def allow(ns: Space, *subjects: dict[str, str]) -> None:
    """Let these decide in this namespace."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "windlass-approve"}
    ns.apply(
        yaml.safe_dump(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "deciders"},
                "roleRef": role,
                "subjects": list(subjects),
            }
        )
    )


def user(name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}


def asked(ns: Space, run_name: str) -> dict[str, Any]:
    """Wait until a run asks, and return its Approval."""
    run_id = ns.wait(run_name, state="Waiting", reason="WaitingForApproval")["runId"]
    until = time.monotonic() + 20
    while True:
        found = json.loads(kubectl("get", "wa", "-n", ns.name, "-l", f"windlass.dev/run-id={run_id}", "-o", "json"))
        if found["items"] and found["items"][0].get("status"):
            return dict(found["items"][0])
        assert time.monotonic() < until, found
        time.sleep(0.2)


def patch(ns: Space, name: str, who: str, **spec: Any) -> "subprocess.CompletedProcess[str]":
    """Change the spec of an Approval as somebody."""
    change = json.dumps({"spec": spec})
    return run(
        "kubectl", "patch", "wa", name, "-n", ns.name, "--type=merge", "-p", change, "--as", who, check=False
    )  # fmt: skip


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode != 0, done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_run_waits_without_a_pod_until_somebody_decides_in_their_own_name(ns: Space) -> None:
    allow(ns, user("alice"), user("bob"))
    ns.apply(a_task("refund", ASKS) + "---\n" + a_run("refund-7", "refund"))
    approval = asked(ns, "refund-7")
    name = approval["metadata"]["name"]
    assert approval["metadata"]["ownerReferences"][0]["name"] == "refund-7"
    pod = ns.status("refund-7")["podName"]
    kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{pod}", "-n", ns.name, "--timeout=20s")
    head, line = kubectl("get", "wa", "-n", ns.name).splitlines()
    assert head.split() == ["NAME", "STATE", "TASK", "QUESTION", "BY", "AGE"]
    assert line.startswith(name)
    assert "Pending" in line
    assert "Refund 80 EUR to order 7?" in line

    refused(patch(ns, name, "alice", decision="Approved", by="bob"), "your own user name, alice")
    refused(patch(ns, name, "alice", decision="Approved"), "by")
    refused(patch(ns, name, "alice", by="alice"), "decision")
    refused(patch(ns, name, "alice", question="Refund 8 EUR?"), "cannot be changed")
    refused(patch(ns, name, "alice", details={"order": 8}), "spec.details of an Approval cannot be changed")
    refused(patch(ns, name, "mallory", decision="Approved", by="mallory"), "forbidden")
    assert ns.status("refund-7")["state"] == "Waiting"

    done = patch(ns, name, "alice", decision="Approved", by="alice", comment="checked")
    assert done.returncode == 0, done.stderr
    status = ns.wait("refund-7", state="Succeeded")
    assert status["result"] == {"approved": True, "by": "alice", "comment": "checked"}
    assert ns.windlass("runs", "logs", "refund-7").stdout.splitlines() == ["charged"]
    kubectl("wait", "--for=condition=Approved", f"wa/{name}", "-n", ns.name, "--timeout=10s")
    refused(patch(ns, name, "bob", decision="Refused", by="bob"), "final")
    line = kubectl("get", "wa", name, "-n", ns.name, "--no-headers")
    assert "Approved" in line
    assert "alice" in line


def test_the_command_line_decides_in_the_name_of_the_tokens_owner(ns: Space) -> None:
    developer = f"system:serviceaccount:{ns.name}:developer"
    may = run("kubectl", "auth", "can-i", "update", "wa", "-n", ns.name, "--as", developer, check=False)
    assert may.stdout.strip() == "no", "to start runs is not to answer what they ask"
    allow(ns, {"kind": "ServiceAccount", "name": "developer", "namespace": ns.name}, user("bob"))
    ns.apply(a_task("refund", ASKS) + "---\n" + a_run("refund-8", "refund"))
    name = asked(ns, "refund-8")["metadata"]["name"]
    assert name in ns.windlass("approvals", "list").stdout
    assert '"order": 7' in ns.windlass("approvals", "get", name).stdout
    done = ns.windlass("approvals", "refuse", name, "--comment", "paid already")
    assert done.stdout == f"{name} Refused by {developer}\n"
    status = ns.wait("refund-8", state="Succeeded")
    assert status["result"] == {"approved": False, "by": developer, "comment": "paid already"}
    kubectl("wait", "--for=condition=Finished", f"wa/{name}", "-n", ns.name, "--timeout=10s")
    spec = json.loads(kubectl("get", "wa", name, "-n", ns.name, "-o", "json"))["spec"]
    assert (spec["decision"], spec["by"]) == ("Refused", developer)
    refused(patch(ns, name, "bob", decision="Approved", by="bob"), "final")
    late = ns.windlass("approvals", "approve", name, check=False)
    assert (late.returncode, "ApprovalDecided" in late.stderr) == (3, True)


def test_nobody_but_windlass_makes_approvals_and_a_cancelled_run_asks_no_more(ns: Space) -> None:
    allow(ns, user("alice"))
    ns.apply(a_task("refund", ASKS) + "---\n" + a_run("refund-9", "refund"))
    approval = asked(ns, "refund-9")
    name = approval["metadata"]["name"]
    fake = {**approval, "metadata": {"name": "fake"}}
    made = run("kubectl", "create", "-n", ns.name, "-f", "-", stdin=yaml.safe_dump(fake), check=False)
    refused(made, "Only Windlass makes Approvals")
    kubectl("patch", "wr", "refund-9", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    ns.wait("refund-9", state="Cancelled")
    kubectl("wait", "--for=jsonpath={.status.state}=Withdrawn", f"wa/{name}", "-n", ns.name, "--timeout=20s")
    refused(patch(ns, name, "alice", decision="Approved", by="alice"), "Withdrawn")


def test_explain_teaches_how_to_decide() -> None:
    text = kubectl("explain", "approval.spec", "--api-version=windlass.dev/v1alpha1")
    assert "kubectl auth whoami" in text
    assert "at most 16 KiB" in text
