"""Temporal as a contestant: its server, built from its Go module, on the shared PostgreSQL, and Python workers."""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.peers.go_programs import TEMPORAL
from bench.peers.processes import THEIRS, Piped, free_ports, piped
from bench.peers.rounds import Round
from bench.peers.temporal_settings import SERVICES, configuration, sql_tool, tuned
from bench.peers.warm_systems import Warm, effects_file
from tests.support.postgres import PostgresServer

_STORES: Final = {"default": "temporal", "visibility": "visibility"}
"""Each store's folder of the module's schema."""
_PORTS: Final = range(20_000, 32_000)
"""Its table of members keeps a port in 15 bits."""
_STEPS: Final = 5
"""Of each run in the row of steps, and the share of the runs that it gets: it takes ten times as long as others."""
_SHARE: Final = 0.25
_PROCESS: Final = "bench.peers.temporal_process"


@dataclass(frozen=True)
class Temporal:
    """A running server.

    Attributes:
        address: Where its frontend listens.
        pid: Of its one process.
        postgres: The database server.
        tuned: Whether it has the settings of ``temporal_settings``; if not, it is as it comes.
    """

    address: str
    pid: int
    postgres: PostgresServer
    tuned: bool

    def order(self, effects: Path, queue: str, **more: Any) -> str:
        """Return what a process of its SDK is started with."""
        told = {"address": self.address, "effects": str(effects), "queue": queue, "tuned": self.tuned}
        return json.dumps({**told, **more})


@asynccontextmanager
async def temporal_server(postgres: PostgresServer, *, tuned_: bool = True) -> AsyncIterator[Temporal]:
    """Run a server on databases of its own for the duration of the block."""
    programs = await asyncio.to_thread(TEMPORAL.built)
    stores = {name: postgres.create_database() for name in _STORES}
    for name, folder in _STORES.items():
        await asyncio.to_thread(_schema, programs, stores[name], folder)
    ports = free_ports(2 * len(SERVICES), among=_PORTS)
    with tempfile.TemporaryDirectory(prefix="windlass-temporal-") as place:
        dynamic = Path(place) / "dynamic.yaml"
        dynamic.write_text(json.dumps(tuned()))
        config = Path(place) / "config.yaml"
        config.write_text(configuration(stores, ports, dynamic=str(dynamic) if tuned_ else ""))
        command = [str(programs / "temporal-server"), "--config-file", str(config), "--allow-no-auth", "start"]
        with (Path(place) / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Temporal(f"127.0.0.1:{ports[0]}", server.pid, postgres, tuned_)
        except Exception:
            print((Path(place) / "log").read_text(errors="replace")[-3000:])
            raise
        finally:
            server.terminate()
            await asyncio.to_thread(server.wait)


def _schema(programs: Path, uri: str, folder: str) -> None:
    tool = [str(programs / "temporal-sql-tool"), *sql_tool(uri)]
    versions = programs / "schema" / "postgresql" / "v12" / folder / "versioned"
    for step in (["setup-schema", "--version", "0.0"], ["update-schema", "--schema-dir", str(versions)]):
        done = subprocess.run([*tool, *step], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"Temporal's SQL tool, {step[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


@asynccontextmanager
async def warm(
    server: Temporal, queue: str, *, noop: str = "noop", workers: int = 1, steps: int = _STEPS
) -> AsyncIterator[Warm]:
    """Worker processes of a task queue, and a client. Steps are activities.

    Args:
        server: Who keeps the queue.
        queue: Its name.
        noop: The workflow of a run that does nothing.
        workers: How many processes.
        steps: See ``Warm``.
    """
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        order = server.order(effects, queue, workflows={"noop": noop, "steps": "activities"})
        running = [await stack.enter_async_context(piped(THEIRS, _PROCESS, "worker", order)) for _ in range(workers)]
        client = await stack.enter_async_context(piped(THEIRS, _PROCESS, "client", order))
        pids = [server.pid, *(one.pid for one in running)]
        yield Warm(effects, client, pids, pauses=False, server=server.postgres, steps=steps, share=_SHARE)


@asynccontextmanager
async def eager(server: Temporal, queue: str) -> AsyncIterator[Warm]:
    """One process that is worker and client: its runs start in it, without a task queue.

    It has no row of steps: with 100 runs at once workflow tasks time out, and their local activities run again.
    """
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        order = server.order(effects, queue, workflows={"noop": "noop"})
        client = await stack.enter_async_context(piped(THEIRS, _PROCESS, "both", order))
        yield Warm(effects, client, [server.pid], pauses=False, server=server.postgres, steps=0, share=_SHARE)


class Steps:
    """Steps of one workflow, one after the other: activities, or local activities."""

    def __init__(self, process: Piped, *, local: bool) -> None:
        self._process = process
        self._local = local

    async def round(self, count: int) -> Round:
        """Run the workflow once."""
        answer = await self._process.ask({"count": count, "local": self._local})
        return Round(answer["times"], answer["effects"], answer["saved"])


@asynccontextmanager
async def steps_process(server: Temporal, queue: str) -> AsyncIterator[Piped]:
    """A process that is worker and client, for ``Steps``."""
    async with AsyncExitStack() as stack:
        order = server.order(effects_file(stack), queue, workflows={})
        yield await stack.enter_async_context(piped(THEIRS, _PROCESS, "steps", order))
