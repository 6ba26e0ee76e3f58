"""Ours and DBOS as contestants, on databases of one PostgreSQL server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg

from bench.local_plane import LocalPlane
from bench.peers.installed import PYTHON, ROOT
from bench.peers.rounds import Round

_STEPS: Final = """
import time
from windlass import step, task

done = 0

@step
def tick(n):
    global done
    done += 1
    return n

@step
async def atick(n):
    global done
    done += 1
    return n

@task
def sync(count):
    times = []
    for n in range(count):
        began = time.perf_counter()
        tick(n)
        times.append((time.perf_counter() - began) * 1000)
    return {"times": times, "effects": done}

@task
async def asynchronous(count):
    times = []
    for n in range(count):
        began = time.perf_counter()
        await atick(n)
        times.append((time.perf_counter() - began) * 1000)
    return {"times": times, "effects": done}
"""
_LINE: Final = 4 * 1024 * 1024
_TELLS_AFTER: Final = 11
"""Seconds after which PostgreSQL's statistics have what a session did that is idle since: 10, and a bit."""


class Ours:
    """A new run and a new runner process for each round."""

    def __init__(self, plane: LocalPlane, kind: str) -> None:
        self._plane = plane
        self._kind = kind

    async def round(self, count: int) -> Round:
        """Run the task once."""
        run_id = await self._plane.submit(_STEPS, self._kind, count)
        await self._plane.attempt()
        answer = json.loads(await self._plane.result(run_id))
        query = "SELECT count(*) AS n FROM step WHERE run_id = %(run)s AND state = 'succeeded'"
        rows = await self._plane.world.database.fetch(query, {"run": run_id})
        return Round(answer["times"], answer["effects"], rows[0]["n"])


class Dbos:
    """A workflow in an application process that stays."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def round(self, count: int) -> Round:
        """Run the workflow once."""
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(f"{count}\n".encode())
        answer = json.loads(await _line(self._process))
        return Round(answer["times"], answer["effects"], answer["saved"])


@asynccontextmanager
async def dbos_system(uri: str, kind: str, engine: dict[str, Any]) -> AsyncIterator[Dbos]:
    """Keep a DBOS application for the duration of the block.

    Args:
        uri: Of its system database.
        kind: ``sync`` or ``async``.
        engine: Settings of its engine that differ from DBOS's defaults.
    """
    command = [str(PYTHON), "-m", "bench.peers.dbos_process", uri, json.dumps(engine), kind]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT, limit=_LINE)
    try:
        await _line(process)
        yield Dbos(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None, "it is a pipe"
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the DBOS process has ended; what it said stands above")
    return line.decode()


def postgres_durability(uri: str) -> dict[str, str]:
    """Return what the server says of itself that decides whether a commit survives a power cut."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "commit_delay")
    with psycopg.connect(uri, autocommit=True) as connection:
        return {name: str((connection.execute(f"SHOW {name}").fetchone() or ("?",))[0]) for name in names}


async def postgres_syncs(uri: str) -> int:
    """Return how often the server has synchronised its log to disk, when every session has told."""
    await asyncio.sleep(_TELLS_AFTER)
    with psycopg.connect(uri, autocommit=True) as connection:
        row = connection.execute("SELECT wal_sync FROM pg_stat_wal").fetchone()
    return int(row[0]) if row else 0
