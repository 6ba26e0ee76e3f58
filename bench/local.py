"""Local processes: API, runner and PostgreSQL with full fsync. The durable step, and the runner's start."""

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from bench.report import Figure, figure
from tests.support.postgres import postgres_server
from tests.support.world import World, a_task
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate

_STEPS = """
import time
from windlass import step, task, current_run

@step
def tick(n):
    return n

@step
async def atick(n):
    return n

@task
def sync(count):
    times = []
    for n in range(count):
        began = time.perf_counter()
        tick(n)
        times.append((time.perf_counter() - began) * 1000)
    return times

@task
async def asynchronous(count):
    times = []
    for n in range(count):
        began = time.perf_counter()
        await atick(n)
        times.append((time.perf_counter() - began) * 1000)
    return times

@task
def first_line(began):
    return time.time() - began
"""


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    figures = []
    with postgres_server(fsync=True) as server:
        uri = server.create_database()
        migrate(uri)
        database = Database(uri, size=12)
        await database.open()
        world = await World(database).start()
        api = subprocess.Popen([sys.executable, "-m", "bench.api_process", uri], stdout=subprocess.PIPE, text=True)
        assert api.stdout is not None, "it is a pipe"
        url = api.stdout.readline().strip()
        try:
            for kind in ("sync", "asynchronous"):
                times = [t for _ in range(3) for t in json.loads(await _run(world, url, kind, 300))[20:]]
                figures.append(figure(f"durable step, {kind}, sequential, local processes", times, "ms", goal="<=1.2"))
            starts = [await _first_line(world, url) for _ in range(10)]
            figures.append(figure("runner process started → first line of user code, local", starts, "s"))
        finally:
            api.terminate()
            api.wait()
        await database.close()
    return [*figures, *_imports()]


async def _run(world: World, url: str, function: str, payload: Any) -> str:
    task = a_task(entrypoint=f"job:{function}", source=_STEPS, retry=RetryPolicy(max_attempts=1))
    run_id = await world.submit(task, name=function.replace("_", "-"), payload=payload)
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    env = {
        **os.environ,
        "WINDLASS_URL": url,
        "POD_NAME": seen.name,
        "POD_UID": seen.uid,
        "WINDLASS_CREDENTIAL": world.cluster.credentials[seen.namespace],
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "windlass_runner", env=env, stdout=subprocess.DEVNULL
    )
    await process.wait()
    row = await world.get(run_id)
    if row["state"] != "Succeeded":
        raise RuntimeError(f"the run is {row['state']}: {row['message']}")
    return str(row["result"])


async def _first_line(world: World, url: str) -> float:
    return float(await _run(world, url, "first_line", time.time()))


def _imports() -> list[Figure]:
    """CPU time of the runner's start-up by part."""
    parts = {
        "interpreter": "pass",
        "import windlass": "import windlass",
        "a module with tasks and steps": "from windlass import task, step",
        "process 1": "import windlass_runner.main",
        "zygote": "import windlass_runner.zygote",
        "zygote and pydantic": "import windlass_runner.zygote, pydantic",
    }
    figures = []
    for name, code in parts.items():
        times = []
        for _ in range(7):
            done = subprocess.run(
                [sys.executable, "-c", f"import time\n{code}\nprint(time.process_time())"],
                capture_output=True,
                text=True,
                check=True,
            )
            times.append(float(done.stdout) * 1000)
        figures.append(figure(f"CPU time until imported: {name}", times, "ms"))
    return figures


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
