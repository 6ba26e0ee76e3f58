"""``python -m bench.peers [steps|warm|pods]``: Windlass beside other systems, interleaved. All without arguments."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Protocol

from bench import report
from bench.local_plane import local_plane
from bench.peers import pods, warm
from bench.peers.contestants import Dbos, Ours, dbos_system, postgres_durability, postgres_syncs
from bench.peers.go_programs import TEMPORAL
from bench.peers.installed import install, version
from bench.peers.restate import Restate, restate_system
from bench.peers.rounds import Round, Series, order
from bench.peers.temporal import Steps, steps_process, temporal_server
from tests.support.postgres import PostgresServer, postgres_server

_LOCAL: Final = ("steps", "warm")
"""Parts that need no cluster."""
_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_ROUNDS", "12"))
_STEPS: Final = 220
_WARM_UP: Final = 20
_CONNECTIONS: Final = 500
"""Of PostgreSQL: each of Temporal's services keeps some of its own."""
_NOT_EACH: Final = " local activity"
"""Of Temporal: results of these are saved when the workflow has to wait for something else, many at once."""
_ENGINE: Final = {"pool_pre_ping": False}
"""By default DBOS asks before each use of a connection whether the server is there: a round trip more."""


class Contestant(Protocol):
    """Somebody whose steps are timed."""

    async def round(self, count: int) -> Round:
        """Do so many steps, one after the other."""


async def measure(parts: list[str]) -> list[report.Figure]:
    """Measure the parts that need no cluster and return the figures. All who use PostgreSQL use one server."""
    figures = []
    with postgres_server(fsync=True, connections=_CONNECTIONS) as server:
        if "steps" in parts:
            figures += await steps(server)
        if "warm" in parts:
            figures += await warm.measure(server)
    return figures


async def steps(server: PostgresServer) -> list[report.Figure]:
    """Measure steps, one after the other."""
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(local_plane(server))
        restate = await stack.enter_async_context(restate_system())

        async def dbos(kind: str, engine: dict[str, Any]) -> Dbos:
            return await stack.enter_async_context(dbos_system(server.create_database(), kind, engine))

        temporal = await stack.enter_async_context(temporal_server(server))
        untuned = await stack.enter_async_context(temporal_server(server, tuned_=False))
        process = await stack.enter_async_context(steps_process(temporal, "steps"))
        process_untuned = await stack.enter_async_context(steps_process(untuned, "steps"))
        contestants: dict[str, Contestant] = {
            "ours, sync": Ours(plane, "sync"),
            "ours, async": Ours(plane, "asynchronous"),
            "DBOS, sync": await dbos("sync", _ENGINE),
            "DBOS, async": await dbos("async", _ENGINE),
            "DBOS as it comes, sync": await dbos("sync", {}),
            "Restate, async": restate,
            "Temporal, activity": Steps(process, local=False),
            f"Temporal,{_NOT_EACH}": Steps(process, local=True),
            "Temporal as it comes, activity": Steps(process_untuned, local=False),
        }
        await _say_durability(server, restate, contestants)
        series = await _rounds(contestants)
    for name, one in series.items():
        print(
            f"{name}: p50 {one.quantile(0.5):.2f} ms, p90 {one.quantile(0.9):.2f}, p99 {one.quantile(0.99):.2f}; "
            f"{min(one.medians):.2f} to {max(one.medians):.2f} (medians of {len(one.medians)} rounds)"
        )
    return _figures(series)


async def _rounds(contestants: dict[str, Contestant]) -> dict[str, Series]:
    series = {name: Series(_WARM_UP) for name in contestants}
    for number in range(_ROUNDS):
        for name in order(list(contestants), number):
            done = await contestants[name].round(_STEPS)
            done.check(name, _STEPS)
            series[name].add(done.times)
    return series


async def _say_durability(server: PostgresServer, restate: Restate, contestants: dict[str, Contestant]) -> None:
    """Print what each one's storage promises, and how often it really synchronises, which no setting can gloss over."""
    print("PostgreSQL, for ours, DBOS and Temporal:", _told(postgres_durability(server.uri())))
    print("Restate:", _told(await restate.durability()))
    for name in ("ours, sync", "DBOS, sync", "Restate, async", "Temporal, activity", f"Temporal,{_NOT_EACH}"):
        count = restate.syncs if name.startswith("Restate") else partial(postgres_syncs, server.uri())
        before = await count()
        (await contestants[name].round(_STEPS)).check(name, _STEPS)
        after = await count()
        print(f"{name}: {(after - before) / _STEPS:.2f} synchronisations of the log for a step")
        if after - before < _STEPS and not name.endswith(_NOT_EACH):
            raise RuntimeError(f"{name}: not every step reached the disk; the times could not be compared.")


def _figures(series: dict[str, Series]) -> list[report.Figure]:
    dbos, restate = f"DBOS {version('dbos')}", f"Restate {version('restate-server')}"
    temporal = f"Temporal {version('temporal-server')}"
    pairs = [
        ("ours, sync", "DBOS, sync", dbos, "ratio<=0.5"),
        ("ours, async", "DBOS, async", dbos, "ratio<=0.5"),
        ("ours, async", "Restate, async", restate, "ratio<=1.0"),
        ("ours, sync", "Restate, async", f"{restate} (async)", ""),
        ("ours, sync", "DBOS as it comes, sync", f"{dbos} as it comes", ""),
        ("ours, async", "Temporal, activity", f"{temporal}, activity", ""),
        ("ours, async", f"Temporal,{_NOT_EACH}", f"{temporal}, local activity (not saved one by one)", ""),
        ("ours, async", "Temporal as it comes, activity", f"{temporal} as it comes, activity", ""),
    ]
    figures = []
    for ours, theirs, peer, goal in pairs:
        name = f"durable step, {ours.removeprefix('ours, ')}, sequential"
        figures.append(report.figure(name, series[ours].medians, "ms", peer=(peer, series[theirs].medians), goal=goal))
    return figures


def _told(settings: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def main() -> None:
    """Install what is missing, measure, write the figures."""
    parts = sys.argv[1:] or [*_LOCAL, *(["pods"] if pods.there() else [])]
    figures = pods.measure() if "pods" in parts else []
    if set(parts) & set(_LOCAL):
        install()
        TEMPORAL.built()
        figures += asyncio.run(measure(parts))
    report.write(figures)


if __name__ == "__main__":
    main()
