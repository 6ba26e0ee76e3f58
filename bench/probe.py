"""One round of everything that a run and a step cost, each beside the same thing done without Windlass."""

import asyncio
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench.local_plane import LocalPlane, local_plane
from bench.measured import fine_children_cpu, fine_cpu_seconds
from bench.rest import Caller
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.rest import ALICE, ROOT

STEPS: Final = 150
_SAVES: Final = 80
_WARM_UP: Final = 20
_TRIGGERS: Final = 40
_SOURCE: Final = """
import time
from windlass import step, task

@step
def tick(n):
    return n

@task
def main(count):
    times, used = [], time.process_time()
    for n in range(count):
        began = time.perf_counter()
        tick(n)
        times.append((time.perf_counter() - began) * 1000)
    return [times, (time.process_time() - used) * 1000]
"""
_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8"
_BARE: Final = "import asyncio, http.client, json, logging, msgspec"
"""What a program like the runner's process 1 cannot do without."""
_RUNNER: Final = "import windlass_runner.main, windlass_runner.zygote; from windlass import step, task"
_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Used:
    """What was used until a moment: seconds of CPU, and bytes of log."""

    runner: float
    api: float
    database: float
    log: float

    def since(self, before: "Used") -> "Used":
        """Return what was used in between."""
        return Used(
            self.runner - before.runner, self.api - before.api, self.database - before.database, self.log - before.log
        )


@dataclass(frozen=True)
class Round:
    """Times and CPU in milliseconds, logs in bytes; ``bare`` is the same without Windlass.

    Attributes:
        step: From the call of a step until its result is saved, in the middle.
        trigger: CPU of the API for a trigger through REST.
        child: CPU of the user's process for a step.
        empty: What a run without steps uses, its runner process included.
        each_step: What a step adds.
        imports: CPU of a Python until it has imported what a runner consists of.
        bare_imports: The same with the libraries that process 1 cannot do without.
        bare_save: A request that saves one row.
        bare_api: CPU of the server of that.
        bare_database: CPU of PostgreSQL for that.
        bare_log: Bytes of log of that.
    """

    step: float
    trigger: float
    child: float
    empty: Used
    each_step: Used
    imports: float
    bare_imports: float
    bare_save: float
    bare_api: float
    bare_database: float
    bare_log: float


class Probe:
    """A control plane, and beside it the reference on the same PostgreSQL server."""

    def __init__(self, server: PostgresServer, plane: LocalPlane, reference: str, pid: int) -> None:
        self._server, self._plane, self._pid = server, plane, pid
        self._reference = reference
        self._connection = psycopg.connect(server.uri(), autocommit=True)

    async def round(self) -> Round:
        """Measure everything once, the reference before and after."""
        bare_imports = _cpu_of(_BARE)
        imports = _cpu_of(_RUNNER)
        empty, _, _ = await self._run(0)
        trigger = await asyncio.to_thread(self._triggers)
        await self._plane.world.database.fetch("DELETE FROM queue_entry")  # nobody is to execute those
        before = await asyncio.to_thread(self._bare)
        full, times, child = await self._run(STEPS)
        after = await asyncio.to_thread(self._bare)
        extra, step = full.since(empty), statistics.median(times[_WARM_UP:])
        each = Used(extra.runner / STEPS, extra.api / STEPS, extra.database / STEPS, extra.log / STEPS)
        bare = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
        return Round(step, trigger, child / STEPS, empty, each, imports, bare_imports, *bare)

    async def _run(self, steps: int) -> tuple[Used, list[float], float]:
        before, known = self._used(), _own_children()
        run_id = await self._plane.submit(_SOURCE, "main", steps)
        await self._plane.attempt()
        _bury(known)
        used = self._used().since(before)
        times, child = json.loads(await self._plane.result(run_id))
        return used, times, child

    def _triggers(self) -> float:
        """Return milliseconds of CPU of the API for a trigger."""
        caller, used = Caller(self._plane.url), fine_cpu_seconds(self._plane.pid)
        for n in range(_TRIGGERS):
            caller.call("POST", f"{ROOT}/tasks/order/runs", ALICE, b'{"payload": {"n": %d}}' % n)
        return (fine_cpu_seconds(self._plane.pid) - used) / _TRIGGERS * 1000

    def _bare(self) -> tuple[float, float, float, float]:
        """Return milliseconds of a save, of CPU of its server and of PostgreSQL for it, and its bytes of log."""
        caller, times = Caller(self._reference), []  # a new one: idle connections are closed after some seconds
        used, stored, log = fine_cpu_seconds(self._pid), fine_children_cpu(self._server.pid), self._log()
        for _ in range(_SAVES):
            began = time.perf_counter()
            caller.call("POST", "/save", "", b'{"key": "tick#1", "result": 1, "durationMs": 1.5}')
            times.append((time.perf_counter() - began) * 1000)
        cpu = (fine_cpu_seconds(self._pid) - used) / _SAVES * 1000
        database = (fine_children_cpu(self._server.pid) - stored) / _SAVES * 1000
        return statistics.median(times[_WARM_UP:]), cpu, database, (self._log() - log) / _SAVES

    def _used(self) -> Used:
        return Used(_children(), fine_cpu_seconds(self._plane.pid), fine_children_cpu(self._server.pid), self._log())

    def _log(self) -> float:
        return float((self._connection.execute(_LOG).fetchone() or [0.0])[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _cpu_of(code: str) -> float:
    """Return milliseconds of CPU that a Python needs for some code."""
    before = _children()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (_children() - before) * 1000


def _bury(known: set[int]) -> None:
    """Wait for zygotes: process 1 ends without a look at them, and the kernel gives them to us."""
    for pid in _own_children() - known:
        os.waitpid(pid, 0)


def _own_children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _children() -> float:
    """Return seconds of CPU of all our children that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def probing() -> AsyncIterator[Probe]:
    """Keep everything that a round needs for the duration of the block."""
    # What outlives its parent becomes ours, so that it is waited for and counted.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server(fsync=True))
        plane = await stack.enter_async_context(local_plane(server, "bench.rest_process"))
        command = [sys.executable, "-m", "bench.reference_process", server.create_database()]
        reference = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(reference.wait)
        stack.callback(reference.terminate)
        assert reference.stdout is not None, "it is a pipe"
        probe = Probe(server, plane, reference.stdout.readline().strip(), reference.pid)
        stack.callback(probe.close)
        yield probe
