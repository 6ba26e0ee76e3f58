"""What must be true of a namespace's runs after whatever happened: asked of the ledger, and of Kubernetes."""

import json
import subprocess
import time

from e2e.support import SYSTEM, Space, kubectl, query, run

_HISTORY = """
SELECT run.id, run.state, a.number, a.outcome, round(extract(epoch FROM a.started_at) * 1000) AS began,
       round(extract(epoch FROM a.closed_at) * 1000) AS ended, a.pod_id
  FROM run JOIN project p ON p.id = run.project_id LEFT JOIN attempt a ON a.run_id = run.id
 WHERE p.namespace = :'ns' ORDER BY run.id, a.number
"""
_FINAL = {"Succeeded", "Failed", "TimedOut", "Cancelled"}


def hold(ns: Space) -> None:
    """Check a namespace in which every run has ended.

    The ledger's own rules hold; each run has one final state, its attempts are numbered without gaps and closed, no two
    of them were open at the same time, no pod served two, and each Run shows what the ledger has.
    """
    verify_ledger()
    history = query(_HISTORY, ns=ns.name)
    broken = [f"run {run_id} is {state}" for run_id, state, *_ in history if state not in _FINAL]
    attempts = [row for row in history if row[2]]
    for run_id, _, number, outcome, began, ended, _ in attempts:
        before = [row for row in attempts if row[0] == run_id and int(row[2]) < int(number)]
        if not ended or not outcome:
            broken.append(f"attempt {number} of {run_id} is open")
        if [int(row[2]) for row in before] != list(range(1, int(number))):
            broken.append(f"attempt {number} of {run_id} has no predecessor")
        if before and int(before[-1][5]) > int(began):
            broken.append(f"attempt {number} of {run_id} began before the one before it had ended")
    pods = [row[6] for row in attempts]
    broken += [f"pod {pod} served {pods.count(pod)} attempts" for pod in sorted({*pods}) if pods.count(pod) > 1]
    broken += _differing(ns, {row[0]: row[1] for row in history})
    assert not broken, "\n".join(broken)


def verify_ledger(seconds: float = 60) -> None:
    """Ask the doctor, who comes right after an outage and may have to wait for the ledger like everybody else."""
    until = time.monotonic() + seconds
    while True:
        found = _doctor("api", "--ledger-only")
        if found.returncode == 0:
            return
        assert "LedgerUnavailable" in found.stderr, found.stdout + found.stderr
        assert time.monotonic() < until, found.stderr


def agree(ns: Space) -> None:
    """Ask the doctor whether pods, Run resources and stored values of a namespace are what the ledger says of them.

    Other scenarios, at work in namespaces of theirs, may have broken something on purpose.
    """
    said = _doctor("operator", "--json")
    assert said.stdout, said.stderr
    report = json.loads(said.stdout)
    unseen = {check["check"]: check["not_looked_at"] for check in report["checks"] if check["violations"] is None}
    assert not [name for name in unseen if not name.startswith("objects")], unseen
    assert all("No object store is configured" in why for why in unseen.values()), unseen
    assert not [found for found in report["violations"] if found["namespace"] in (None, ns.name)]


def _doctor(process: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = ("windlass-operator", "doctor", "--verify-ledger", *options)
    return run("kubectl", "exec", "-n", SYSTEM, f"deploy/windlass-{process}", "-c", process, "--", *words, check=False)


def _differing(ns: Space, states: dict[str, str]) -> list[str]:
    """Return where a status is not what the ledger says."""
    found = json.loads(kubectl("get", "runs.windlass.dev", "-n", ns.name, "-o", "json"))["items"]
    shown = [(run["metadata"]["name"], run.get("status") or {}) for run in found]
    return [
        f"Run {name} shows {status.get('state')}, the ledger has {states.get(status.get('runId', ''))}"
        for name, status in shown
        if states.get(status.get("runId", "")) != status.get("state")
    ]


def pods_made(ns: Space) -> int:
    """Return how many pods were ever planned for a namespace: one for each attempt, unless some were in vain."""
    sql = "SELECT count(*) FROM pod WHERE namespace = :'ns'"
    return int(query(sql, ns=ns.name)[0][0])
