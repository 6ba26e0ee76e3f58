"""What is crashed: a few runs that together make every call that there is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.crash.plant import SHOP, Plant

_HEAD: Final = "from windlass import *\nfrom tests.crash.effects import effect\n"

_STEPS: Final = """
@step
def charge(n):
    effect("charge")
    return n * 2
@step
async def big(n):
    effect("big")
    return "x" * n
@step(retry=Retry(max_attempts=3, min_delay="10ms"))
def flaky():
    if effect("flaky") == 1:
        raise ConnectionError("the first try fails")
    return "at last"
@task
async def double(n: int) -> int:
    effect_of_double(n)
    return n * 2
@step
def effect_of_double(n):
    effect("double")
@task
async def main(n: int):
    first = charge(n)
    text = await big(100_000)
    word = flaky()
    await sleep("30ms")
    child = await double.trigger_and_wait(first)
    told = await wait_for_event("paid")
    return {"first": first, "text": text, "word": word, "child": child, "told": told.payload}
"""


async def steps(plant: Plant) -> None:
    """Steps, a large value, a step that fails once, a sleep, a child, an event, a large result."""
    plant.apply_task("steps", _HEAD + _STEPS)
    plant.apply_task("double", _HEAD + _STEPS, "double")
    run = await plant.post("tasks/steps/runs", {"payload": 7, "idempotencyKey": "once"})
    await plant.post("events", {"name": "paid", "payload": {"amount": 80}, "id": "payment-1"})
    await plant.run_is(run["id"], "Succeeded", "Failed")
    await plant.all_is_over()


_UNDO: Final = """
def refund(result, n):
    effect("refund")
async def unship(n):
    effect("unship")
@step(compensate=refund)
def charge(n):
    effect("charge")
    return "x" * 70_000
@step(compensate=unship)
async def ship(n):
    effect("ship")
@task
async def fails(n: int):
    charge(n)
    await ship(n)
    raise PermanentError("nothing can be done")
@task
async def main(n: int):
    charge(n)
    await ship(n)
    await wait_for_event("never")
"""


async def undo(plant: Plant) -> None:
    """A run that is cancelled while it waits and one that fails for good, both with steps to undo."""
    plant.apply_task("undo", _HEAD + _UNDO)
    plant.apply_task("fails", _HEAD + _UNDO, "fails")
    failing = await plant.post("tasks/fails/runs", {"payload": 1, "idempotencyKey": "fails"})
    run = await plant.post("tasks/undo/runs", {"payload": 1, "idempotencyKey": "once"})
    await plant.run_is(run["id"], "Waiting")
    await plant.post(f"runs/{run['id']}/cancel", {})
    await plant.run_is(run["id"], "Cancelled", "Failed")
    await plant.run_is(failing["id"], "Cancelled", "Failed")
    await plant.all_is_over()


_RUNS: Final = """
@step
def work(n):
    effect(f"work {n}")
    return n + 1
@task
def main(n: int):
    return work(n)
@task
async def waits(n: int):
    work(n)
    await wait_for_event("never")
"""


async def runs(plant: Plant) -> None:
    """Run resources: one that ends and is removed by its ttl, one that is deleted while it waits."""
    plant.apply_run("early", "work", 1)  # before its Task, as `kubectl apply` of a folder may do it
    plant.apply_task("work", _HEAD + _RUNS, ttlAfterFinished="200ms")
    plant.apply_task("waits", _HEAD + _RUNS, "waits")
    plant.apply_run("deleted", "waits", 2)

    async def waits() -> bool:
        run = plant.kube.objects.get(("runs", SHOP, "deleted"))
        return run is not None and run.get("status", {}).get("state") == "Waiting"

    await plant.until(waits, "the status of Run deleted is Waiting")
    plant.kube.remove("runs", SHOP, "deleted")

    async def gone() -> bool:
        return not plant.kube.of("runs")

    await plant.until(gone, "the Run that has ended is removed")
    await plant.all_is_over()


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: Of it.
        drive: Submits runs and waits for their end.
        s3: Whether large values go to S3; else they are rows of the ledger.
    """

    name: str
    drive: Callable[[Plant], Awaitable[None]]
    s3: bool = False


ALL: Final = (
    Scenario("steps", steps, s3=True),
    Scenario("undo", undo),
    Scenario("runs", runs),
)
