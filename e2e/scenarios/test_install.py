"""Installing, restarting and restricting the release."""

import json
import time
from collections.abc import Iterator

import pytest

from e2e import demo
from e2e.support import SYSTEM, Space, a_run, a_task, kubectl, run, space

pytestmark = pytest.mark.usefixtures("release")

HELLO = "@task\ndef main():\n    return 'hello'\n"


def test_helm_test_passes() -> None:
    assert "Phase:          Succeeded" in run("helm", "test", "windlass", "-n", SYSTEM).stdout


@pytest.mark.alone
def test_an_operator_that_is_replaced_ends_well_and_hands_the_lead_over_at_once(ns: Space) -> None:
    """A standby waits for nothing, and the leader gives the Lease back: the next one need not wait for it to expire."""
    kubectl("scale", "deploy/windlass-operator", "--replicas=2", "-n", SYSTEM)
    try:
        kubectl("rollout", "status", "deploy/windlass-operator", "-n", SYSTEM, "--timeout=60s")
        leader = _leader()
        began = time.monotonic()
        kubectl("delete", "pod", leader, "-n", SYSTEM, "--wait=false")
        while _leader() in ("None", leader):
            assert time.monotonic() - began < 12, "the Lease was not given back: a successor waits for its 15 s"
            time.sleep(0.2)
        kubectl("wait", "--for=delete", f"pod/{leader}", "-n", SYSTEM, "--timeout=20s")
        ns.apply(a_task("hello", HELLO) + "---\n" + a_run("hello", "hello"))
        ns.wait("hello", state="Succeeded")
    finally:
        kubectl("scale", "deploy/windlass-operator", "--replicas=1", "-n", SYSTEM)


def _leader() -> str:
    lease = json.loads(kubectl("get", "lease", "windlass-operator", "-n", SYSTEM, "-o", "json"))
    return str(lease["spec"].get("holderIdentity"))


@pytest.fixture
def restricted(ns: Space) -> Iterator[Space]:
    """Install for this one namespace, and for the whole cluster again afterwards."""
    demo.install("--set", f"namespaces={{{ns.name}}}")
    try:
        yield ns
    finally:
        demo.install()


@pytest.mark.alone
def test_an_installation_for_listed_namespaces_serves_them_and_may_see_no_other(restricted: Space) -> None:
    with space() as other:
        for each in (restricted, other):
            each.apply(a_task("hello", HELLO) + "---\n" + a_run("hello", "hello"))
        restricted.wait("hello", state="Succeeded")
        assert other.status("hello") == {}
        operator = f"--as=system:serviceaccount:{SYSTEM}:windlass-operator"
        for verb, kind in (("list", "runs.windlass.dev"), ("create", "pods"), ("get", "secrets")):
            asked = run("kubectl", "auth", "can-i", verb, kind, "-n", other.name, operator, check=False)
            assert asked.stdout.strip() == "no", f"{verb} {kind}"
        assert json.loads(restricted.windlass("runs", "list", "-o", "json").stdout)[0]["state"] == "Succeeded"
