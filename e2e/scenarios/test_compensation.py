"""A run that is cancelled half-way: what it did is undone in reverse order, and its Run says so at each moment."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.support import Space, a_run, a_task, environment, kubectl

pytestmark = pytest.mark.usefixtures("release")

SALE = """
import asyncio
def undo(name):
    print("undo", name, flush=True)
def unreserve(result):
    undo(result)
async def unship(order):
    await asyncio.sleep(1)
    undo(f"ship {order['id']}")
def refund(result, order):
    undo(f"charge {result['id']} of {order['id']}")
@step(compensate=refund)
def charge(order):
    print("charge", flush=True)
    return {"id": "ch-1"}
@step(compensate=unreserve)
def reserve():
    print("reserve", flush=True)
    return "reserve shelf 3"
@step(compensate=unship)
async def ship(order):
    print("ship", flush=True)
@task
async def main(order):
    charge(order)
    reserve()
    await ship(order)
    print("on it", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(2)
"""


@contextmanager
def watched(ns: Space, name: str, states: list[str]) -> Iterator[None]:
    """Collect the states that ``kubectl get --watch`` shows of a Run, each once."""
    show = '-o=jsonpath={.status.state}{"\\n"}'
    command = ["kubectl", "get", "runs.windlass.dev", name, "-n", ns.name, "--watch", show]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            first = watch.stdout.readline()  # what is done before the watch has begun is not seen by it
            yield
        finally:
            watch.terminate()
            said, _ = watch.communicate(timeout=20)
            states += list(dict.fromkeys([*first.split(), *said.split()]))


def test_a_cancelled_run_undoes_its_finished_steps_in_reverse_order(ns: Space) -> None:
    order = {"id": 7}
    ns.apply(a_task("sale", SALE) + "---\n" + a_run("sale", "sale", payload=order))
    ns.wait_for_log("sale", "on it")
    states: list[str] = []
    with watched(ns, "sale", states):
        ns.wait("sale", state="Running")
        kubectl("patch", "runs.windlass.dev", "sale", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
        compensating = ns.wait("sale", state="Compensating")
        assert (compensating["reason"], compensating.get("finishedAt")) == ("Cancelled", None)
        status = ns.wait("sale", state="Cancelled")
        time.sleep(0.5)  # for the watch, which is another connection
    assert states == ["Running", "Cancelling", "Compensating", "Cancelled"]
    assert (status["reason"], status["attempt"], status["failures"]) == ("Cancelled", 2, {"user": 0, "infra": 0})
    lines = ns.windlass("runs", "logs", "sale").stdout.splitlines()
    assert lines == [
        *("charge", "reserve", "ship", "on it"),
        *("undo ship 7", "undo reserve shelf 3", "undo charge ch-1 of 7"),
    ]
    shown = ns.windlass("runs", "get", "sale").stdout.splitlines()
    assert any(line.split()[:2] == ["2", "Compensated"] for line in shown)
    undone = [line.split()[0] for line in shown if line.strip().startswith("compensate/")]
    assert undone == ["compensate/ship", "compensate/reserve", "compensate/charge"]


def test_a_run_that_fails_undoes_its_steps_and_keeps_its_error(ns: Space) -> None:
    code = SALE.replace("        await asyncio.sleep(600)", "        raise ValueError('no stock')")
    ns.apply(a_task("sale", code, retry={"maxAttempts": 1}) + "---\n" + a_run("sale", "sale", payload={"id": 8}))
    ns.wait("sale", state="Compensating", reason="AttemptsExhausted")
    status = ns.wait("sale", state="Failed")
    assert (status["reason"], status["error"]["message"]) == ("AttemptsExhausted", "no stock")
    lines = ns.windlass("runs", "logs", "sale").stdout.splitlines()
    assert lines[-3:] == ["undo ship 8", "undo reserve shelf 3", "undo charge ch-1 of 8"]
