"""Processes killed without a word: of runners, of the release, of the object store. How long it takes to go on."""

import os
import signal
import statistics
import time
from collections.abc import Callable

import pytest

from e2e import invariants, node
from e2e.support import Space, a_run, a_task, query

pytestmark = [pytest.mark.usefixtures("release"), pytest.mark.alone, node.OURS]

LEASE = 30
BACKOFF = 1.0
ENDLESS_AT_FIRST = """
import time
@step
def one():
    return 1
@step
def two():
    time.sleep(600 if current_run().attempt == 1 else 0)
    return 2
@task
def main():
    return [one(), two()]
"""
CRASHES = """
import os, signal, time
@task
def main(how):
    if current_run().attempt == 1:
        print(time.time(), flush=True)
        os.abort() if how == "abort" else os.kill(os.getpid(), signal.SIGKILL)
    return how
"""
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
MANY = 80
STEPPING = f"""
import time
@step
def one(number):
    print(number, flush=True)
    time.sleep(0.1)
    return number
@task
def main():
    return sum(one(number) for number in range({MANY}))
"""
STEPPED = sum(range(MANY))
LAST_LINES = 1.5
"""Seconds before a crash of PostgreSQL whose log lines may be lost: half a second, and what they take to it."""
UNHURT = {"user": 0, "infra": 0}
Measured = Callable[[str], None]


def began(ns: Space, run_name: str, attempt: int) -> float:
    """Return when an attempt was claimed, in seconds of the machine's clock."""
    sql = """SELECT extract(epoch FROM a.started_at) FROM attempt a JOIN run ON run.id = run_id
        JOIN project p ON p.id = project_id WHERE namespace = :'ns' AND resource_name = :'run'
        AND number = :'attempt'"""
    return float(query(sql, ns=ns.name, run=run_name, attempt=str(attempt))[0][0])


def accepted(ns: Space, run_name: str) -> float:
    """Return when a run was accepted, in seconds of the machine's clock."""
    sql = """SELECT extract(epoch FROM run.created_at) FROM run JOIN project p ON p.id = project_id
        WHERE namespace = :'ns' AND resource_name = :'run'"""
    return float(query(sql, ns=ns.name, run=run_name)[0][0])


def longest_pause(ns: Space, since: float) -> float:
    """Return the longest time in which no step of a run ended: the outage as its code saw it."""
    sql = """SELECT max(pause) FROM (
        SELECT step.finished_at, extract(epoch FROM step.finished_at - lag(step.finished_at) OVER
               (PARTITION BY run_id ORDER BY step.finished_at)) AS pause
          FROM step JOIN run ON run.id = run_id JOIN project p ON p.id = project_id WHERE namespace = :'ns') AS pauses
        WHERE finished_at > to_timestamp(:'since'::float8)"""
    return float(query(sql, ns=ns.name, since=str(since))[0][0])


def began_step(ns: Space, run_name: str, number: int) -> float:
    """Return when the step with this result began, in seconds of the machine's clock."""
    sql = """SELECT extract(epoch FROM step.started_at) FROM step JOIN run ON run.id = run_id
        JOIN project p ON p.id = project_id
        WHERE namespace = :'ns' AND resource_name = :'run' AND step.result = :'number'"""
    return float(query(sql, ns=ns.name, run=run_name, number=str(number))[0][0])


def in_the_middle(ns: Space, run_name: str) -> None:
    """Wait until a run has done some of its steps."""
    until = time.monotonic() + 60
    while (found := ns.status(run_name).get("steps", {}).get("succeeded", 0)) < 5:
        assert time.monotonic() < until, f"{run_name} has done {found} steps"
        time.sleep(0.1)
    assert found < MANY - 20, "it is killed too late to show anything"


def test_a_run_whose_runner_is_killed_goes_on_in_another_pod(ns: Space, measured: Measured) -> None:
    names = [f"killed-{number}" for number in range(3)]
    ns.apply("---\n".join([a_task("endless", ENDLESS_AT_FIRST), *(a_run(name, "endless") for name in names)]))
    runners = [node.first_processes(ns.name, ns.pod_of(name, currentStep="two")) for name in names]
    killed_at = time.time()
    for [runner] in runners:
        os.kill(runner, signal.SIGKILL)
    for name in names:
        status = ns.wait(name, state="Succeeded")
        assert (status["result"], status["attempt"], status["failures"]) == ([1, 2], 2, {"user": 0, "infra": 1})
    took = [began(ns, name, 2) - killed_at for name in names]
    measured(f"kill -9 of process 1 of a runner pod: next attempt after {_seconds(took)} s (goal: lease + 5 s)")
    assert max(took) <= LEASE + 5
    invariants.hold(ns)
    invariants.agree(ns)


def test_after_a_reported_crash_the_next_attempt_begins_a_second_after_its_backoff(
    ns: Space, measured: Measured
) -> None:
    retry = {"minDelay": f"{BACKOFF * 1000:.0f}ms", "jitter": "none"}
    ns.apply(a_task("crashes", CRASHES, retry=retry))
    took, first = [], []
    for number, how in enumerate(["abort", "kill", "abort"]):
        name = f"crashes-{number}"
        ns.apply(a_run(name, "crashes", payload=how))
        status = ns.wait(name, state="Succeeded")
        assert (status["result"], status["attempt"], status["failures"]) == (how, 2, {"user": 1, "infra": 0})
        crashed_at = float(ns.windlass("runs", "logs", name).stdout.splitlines()[0])
        took.append(began(ns, name, 2) - crashed_at)
        first.append(began(ns, name, 1) - accepted(ns, name))
    measured(
        f"crash of the code: next attempt after {_seconds(took)} s (goal: {1 + BACKOFF} s, {BACKOFF} s of backoff)"
    )
    # A machine with other work starts every pod late, a run's first one too: then a second is not to be had.
    assert statistics.median(took) <= BACKOFF + max(1.0, 1.5 * statistics.median(first)), first
    invariants.hold(ns)


def test_a_large_result_waits_for_an_object_store_that_was_killed(ns: Space) -> None:
    ns.apply(a_task("large", LARGE))
    with node.killed("versitygw"):
        ns.apply(a_run("large", "large"))
        ns.wait("large", steps={"succeeded": 1, "failed": 0, "running": 0, "waiting": 0})
    status = ns.wait("large", seconds=120, state="Succeeded")
    assert status["result"] == ["kept", 1_000_000]
    assert (status["attempt"], status["failures"]) == (1, UNHURT)
    invariants.hold(ns)
    invariants.agree(ns)


@pytest.mark.parametrize(
    ("what", "victims"),
    [
        ("both replicas of the API", {"api": 2}),
        ("the operator, one API and PostgreSQL", {"operator": 1, "api": 1, "postgres": 1}),
    ],
    ids=["api", "operator-api-postgres"],
)
def test_runs_in_the_middle_of_their_steps_go_on_when_parts_are_killed(
    ns: Space, measured: Measured, what: str, victims: dict[str, int]
) -> None:
    names = [f"stepping-{number}" for number in range(3)]
    ns.apply("---\n".join([a_task("stepping", STEPPING), *(a_run(name, "stepping") for name in names)]))
    doomed = [pid for name, count in victims.items() for pid in node.of_component(name)[:count]]
    for name in names:
        in_the_middle(ns, name)
    killed_at = time.time()
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    for name in names:
        status = ns.wait(name, seconds=120, state="Succeeded")
        assert (status["result"], status["attempt"], status["failures"]) == (STEPPED, 1, UNHURT)
        said = ns.windlass("runs", "logs", name).stdout.splitlines()  # also that a save had to be repeated
        lines = [int(line) for line in said if line.isdigit()]
        lost = [number for number in range(MANY) if number not in lines]
        assert lines == [number for number in range(MANY) if number not in lost], "in their order, each once"
        assert not lost or "postgres" in victims, "it alone may lose lines: it takes them without waiting for its disk"
        assert all(killed_at - LAST_LINES < began_step(ns, name, number) < killed_at for number in lost)
    measured(f"{what} killed: no step for {longest_pause(ns, killed_at):.1f} s")
    invariants.hold(ns)


def _seconds(found: list[float]) -> str:
    return ", ".join(f"{seconds:.1f}" for seconds in sorted(found))
