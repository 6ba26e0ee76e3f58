"""Pods that are kept ready, with kubectl: there before any run, one for each run, gone when nobody wants them."""

import json
import time
from collections.abc import Callable

import pytest

from e2e.support import Space, a_run, a_task, kubectl, query

pytestmark = pytest.mark.usefixtures("release")

SAYS_WHERE = """
import os

@task
def main():
    return {"pod": os.environ["HOSTNAME"], "zygote": os.getppid()}
"""
_WAITING = """
SELECT name FROM pod WHERE namespace = :'namespace' AND ahead AND claim_id IS NOT NULL AND state = 'Created'
   AND NOT draining AND ended_at IS NULL
"""


def waiting(ns: Space, count: int, *, but: str = "") -> set[str]:
    """Wait until so many pods, besides one, wait for a run, and return their names."""

    def look() -> set[str]:
        return {row[0] for row in query(_WAITING, namespace=ns.name)} - {but}

    return _until(look, lambda found: len(found) == count)


def pods(ns: Space, count: int) -> set[str]:
    """Wait until so many pods of the namespace are neither ended nor on their way out, and return their names."""

    def look() -> set[str]:
        items = json.loads(kubectl("get", "pods", "-n", ns.name, "-o", "json"))["items"]
        ended = ("Succeeded", "Failed")
        return {
            pod["metadata"]["name"]
            for pod in items
            if pod["status"]["phase"] not in ended and "deletionTimestamp" not in pod["metadata"]
        }

    return _until(look, lambda found: len(found) == count)


def _until(look: Callable[[], set[str]], enough: Callable[[set[str]], bool], seconds: float = 40) -> set[str]:
    until = time.monotonic() + seconds
    while not enough(found := look()):
        assert time.monotonic() < until, f"after {seconds} s still {found}"
        time.sleep(0.3)
    return found


def set_standby(ns: Space, task: str, count: int) -> None:
    """Edit a Task."""
    kubectl("patch", "task", task, "-n", ns.name, "--type=merge", "-p", json.dumps({"spec": {"standby": count}}))


def test_a_pod_is_there_before_any_run_takes_one_and_is_replaced(ns: Space) -> None:
    ns.apply(a_task("warm", SAYS_WHERE, standby=1))
    (first,) = waiting(ns, 1)
    assert kubectl("get", "task", "warm", "-n", ns.name, "-o", "wide").split("\n")[1].split()[-1] == "1"
    mounted = json.loads(kubectl("get", "pod", first, "-n", ns.name, "-o", "json"))["spec"]
    assert "windlass-runner" not in json.dumps(mounted), "it shows a token of its own, not the namespace's credential"

    ns.apply(a_run("one", "warm"))

    status = ns.wait("one", state="Succeeded")
    assert status["podName"] == first == status["result"]["pod"]
    (second,) = waiting(ns, 1, but=first)
    ns.apply(a_run("two", "warm"))
    assert ns.wait("two", state="Succeeded")["podName"] == second != first


def test_pods_go_when_nobody_asks_for_them_any_more(ns: Space) -> None:
    ns.apply(a_task("warm", SAYS_WHERE, standby=2))
    waiting(ns, 2)
    set_standby(ns, "warm", 1)
    pods(ns, 1)
    set_standby(ns, "warm", 0)
    pods(ns, 0)
    set_standby(ns, "warm", 1)
    waiting(ns, 1)
    kubectl("delete", "task", "warm", "-n", ns.name)
    pods(ns, 0)


def test_a_deleted_pod_is_replaced_and_a_new_version_gets_pods_of_its_own(ns: Space) -> None:
    ns.apply(a_task("warm", SAYS_WHERE, standby=1))
    (first,) = waiting(ns, 1)
    kubectl("delete", "pod", first, "-n", ns.name, "--wait=false")
    (second,) = waiting(ns, 1, but=first)
    ns.apply(a_task("warm", SAYS_WHERE.replace("HOSTNAME", "HOME"), standby=1))
    (third,) = _until(
        lambda: {row[0] for row in query(_WAITING, namespace=ns.name)} - {first, second}, lambda found: len(found) == 1
    )
    assert pods(ns, 1) == {third}
    ns.apply(a_run("one", "warm"))
    assert ns.wait("one", state="Succeeded")["podName"] == third
