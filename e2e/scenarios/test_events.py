"""Runs that wait for what happens outside, on a real cluster: no pod while they do."""

import json

import pytest

from e2e.scenarios.test_waits import ran
from e2e.support import SYSTEM, Space, a_run, a_task, address, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

WAITS = """
@task
async def main(order):
    event = await wait_for_event("payment.received", {"orderId": order}, timeout="7d")
    return [event.id, event.payload["amount"]]
"""
TOKEN = """
@task
async def main():
    token = await create_token(timeout="1h")
    print(token.url, flush=True)
    return await wait_for(token)
"""


def ended(ns: Space, pod: str) -> None:
    """Wait until a pod has ended."""
    kubectl("wait", f"pod/{pod}", "-n", ns.name, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=20s")


def curl(url: str, body: str) -> int:
    """POST with nothing but the address; return the status."""
    return int(run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", url, "-d", body).stdout)


def test_one_command_wakes_every_run_that_waits_for_the_event_and_no_other(ns: Space) -> None:
    ns.apply(a_task("ship", WAITS))
    for name, order in (("first", 7), ("second", 7), ("other", 8)):
        ns.apply(a_run(name, "ship", payload=order))
    for name in ("first", "second", "other"):
        status = ns.wait(name, state="Waiting", reason="WaitingForEvent")
        assert "payment.received" in status["message"]
        ended(ns, status["podName"])
    assert ran(ns) == []
    body = json.dumps({"orderId": 7, "amount": 80})
    sent = ns.windlass("events", "send", "payment.received", body, "--id", "payment-81")
    assert sent.stdout == "payment-81\n"
    assert "2 runs got it" in sent.stderr
    for name in ("first", "second"):
        assert ns.wait(name, state="Succeeded")["result"] == ["payment-81", 80]
    assert ns.wait("other", state="Waiting")["reason"] == "WaitingForEvent"


def test_a_token_is_completed_with_curl_by_who_has_nothing_but_its_address(ns: Space) -> None:
    ns.apply(a_task("ask", TOKEN) + "---\n" + a_run("asks", "ask"))
    status = ns.wait("asks", state="Waiting", reason="WaitingForToken")
    (given,) = ns.windlass("runs", "logs", "asks").stdout.split()
    assert given.startswith(f"http://windlass-api.{SYSTEM}.svc")
    ended(ns, status["podName"])
    path = "/callbacks/v1/" + given.rpartition("/")[2]
    with address() as url:
        assert curl(url + path[:-1], "{}") == 404
        assert curl(url + path, '{"publish": true}') == 200
        assert curl(url + path, '{"publish": false}') == 409
        assert ns.wait("asks", state="Succeeded")["result"] == {"publish": True}
        assert curl(url + path, '{"publish": true}') == 200
    secret = given.rpartition(".")[2]
    assert secret not in kubectl("logs", "deploy/windlass-api", "-n", SYSTEM, "--tail=-1")
