"""Local processes: API, runner and PostgreSQL with full fsync. The durable step, and the runner's start."""

import asyncio
import json
import subprocess
import sys
import time

from bench.local_plane import local_plane
from bench.report import Figure, figure
from tests.support.postgres import postgres_server

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
        async with local_plane(server) as plane:
            for kind in ("sync", "asynchronous"):
                times = [t for _ in range(3) for t in json.loads(await plane.run(_STEPS, kind, 300))[20:]]
                figures.append(figure(f"durable step, {kind}, sequential, local processes", times, "ms", goal="<=1.2"))
            starts = [float(await plane.run(_STEPS, "first_line", time.time())) for _ in range(10)]
            figures.append(figure("runner process started → first line of user code, local", starts, "s"))
    return [*figures, *_imports()]


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
