"""Operators that are two, or deaf: what they may not do twice, and what they must do although nobody tells them."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from e2e import deaf_link, invariants, node
from e2e.support import SLOW, SYSTEM, Space, a_run, a_task, kubectl, proxy_port, query

pytestmark = [pytest.mark.usefixtures("release"), pytest.mark.alone, node.OURS]

FOR_EVER = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(3600)\n"
HELLO = "@task\ndef main():\n    return 'hello'\n"
RESYNC: Final = 30 * 1.2
"""Seconds from one look at everything to the next, with its jitter."""
SETTLED: Final = 30
LAST = a_run("last", "missing")
UNHURT = {"user": 0, "infra": 0}
Measured = Callable[[str], None]


@contextmanager
def two_operators() -> Iterator[dict[str, str]]:
    """Run a second operator beside the first and return both pods' UIDs by name."""
    kubectl("scale", "deploy/windlass-operator", "--replicas=2", "-n", SYSTEM)
    try:
        kubectl("rollout", "status", "deploy/windlass-operator", "-n", SYSTEM, "--timeout=60s")
        yield deaf_link.operators()
    finally:
        kubectl("scale", "deploy/windlass-operator", "--replicas=1", "-n", SYSTEM)
        kubectl("rollout", "status", "deploy/windlass-operator", "-n", SYSTEM, "--timeout=60s")
        deaf_link.wait_for_leader(among=deaf_link.operators())


@contextmanager
def statuses(ns: Space) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Record every status that the Runs of a namespace have during the block, by name."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    connection = http.client.HTTPConnection("127.0.0.1", proxy_port())
    connection.request("GET", f"/apis/windlass.dev/v1alpha1/namespaces/{ns.name}/runs?watch=true")
    answer = connection.getresponse()

    def follow() -> None:
        for line in answer:
            run = json.loads(line)["object"]
            if run["metadata"]["name"] == "last":
                return
            found[run["metadata"]["name"]].append(run.get("status") or {})

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield found
        ns.apply(LAST)  # everything before this has been read when it is
        thread.join(timeout=10)
        assert not thread.is_alive(), "the watch has read to its end"
        kubectl("delete", "runs.windlass.dev", "last", "-n", ns.name)
    finally:
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
        answer.close()
        connection.close()


def progress(status: dict[str, Any]) -> tuple[bool, int, int]:
    """Return what of a status only grows in a run that is not cancelled."""
    return "finishedAt" in status, status.get("attempt", 0), status.get("steps", {}).get("succeeded", 0)


def test_a_leader_that_wakes_after_its_lease_is_fenced_and_stands_again(ns: Space, measured: Measured) -> None:
    names = [f"during-{number}" for number in range(4)]
    ns.apply(a_task("slow", SLOW.replace("sleep(5 ", "sleep(10 ")))
    with two_operators() as pods, statuses(ns) as shown:
        first = deaf_link.leader()
        ns.apply("---\n".join(a_run(name, "slow") for name in names))
        for name in names:
            ns.wait(name, state="Running")
        epoch = int(query("SELECT epoch FROM leader")[0][0])
        ends = restarts(first)
        began = time.monotonic()
        with node.stopped(*node.first_processes(SYSTEM, first)):
            ns.apply(a_run("unled", "slow"))
            second = deaf_link.wait_for_leader(among=pods.keys() - {first})
            for name in (*names, "unled"):
                assert ns.wait(name, state="Succeeded")["failures"] == UNHURT
            taken_over = time.monotonic() - began
            ns.apply(a_run("met", "slow"))
            ns.wait("met", currentStep="two")
        restarted(first, ends)
        assert "lost the Lease" in kubectl("logs", first, "-n", SYSTEM, "-c", "operator", "--previous", "--tail=50")
        assert deaf_link.leader() == second
        ns.apply(a_run("after", "slow"))
        for name in ("met", "after"):
            ns.wait(name, state="Succeeded")
        assert query("SELECT epoch, holder FROM leader") == [[str(epoch + 1), second]]
    for name, seen in shown.items():
        assert [progress(status) for status in seen] == sorted(progress(status) for status in seen), name
    assert invariants.pods_made(ns) == len(shown), "no pod twice"
    measured(f"leader stopped: all that it led is done by its successor after {taken_over:.1f} s")
    invariants.hold(ns)


def restarts(pod: str) -> int:
    """Return how often the operator's container of a pod was started again."""
    path = "jsonpath={.status.containerStatuses[0].restartCount}"
    return int(kubectl("get", "pod", pod, "-n", SYSTEM, "-o", path))


def restarted(pod: str, before: int) -> None:
    """Wait until the operator's container of a pod has ended once more and runs again.

    The kubelet waits longer before each restart, and other scenarios may have caused some.
    """
    path = "jsonpath={.status.containerStatuses[0].ready}"
    until = time.monotonic() + 100
    while restarts(pod) == before or kubectl("get", "pod", pod, "-n", SYSTEM, "-o", path) != "true":
        assert time.monotonic() < until, f"{pod}: not started again, {restarts(pod)} times before"
        time.sleep(0.2)


def test_everything_still_happens_within_a_resync_when_no_watch_tells_of_it(ns: Space, measured: Measured) -> None:
    slow = SLOW.replace("sleep(5 ", "sleep(600 ")
    ns.apply("---\n".join([a_task("endless", FOR_EVER), a_task("hello", HELLO), a_task("slow", slow)]))
    ns.apply("---\n".join([a_run("doomed", "endless"), a_run("robbed", "slow")]))
    run_id = ns.wait("doomed", state="Running")["runId"]
    with deaf_link.between_operator_and_api_server() as link:
        pod = ns.pod_of("robbed", currentStep="two")
        link.deaf = True
        began = time.monotonic()
        ns.apply(a_run("unseen", "hello"))
        kubectl("delete", "runs.windlass.dev", "doomed", "-n", ns.name)
        kubectl("delete", "pod", pod, "-n", ns.name, "--force", "--grace-period=0")
        assert ns.wait("unseen", seconds=RESYNC + 10, state="Succeeded")["failures"] == UNHURT
        started = time.monotonic() - began
        ns.wait("robbed", seconds=RESYNC + 10, state="Succeeded", failures={"user": 0, "infra": 1})
        while query("SELECT state FROM run WHERE id::text = :'run'", run=run_id) != [["Cancelled"]]:
            assert time.monotonic() < began + SETTLED + RESYNC + 20, "a runner needs up to 20 s to end"
            time.sleep(0.5)
        cancelled = time.monotonic() - began
        assert link.dropped, "the watches had something to say"
    measured(
        f"no watch heard: a new Run is done after {started:.1f} s, a deleted one cancelled after {cancelled:.1f} s"
    )
    invariants.hold(ns)
