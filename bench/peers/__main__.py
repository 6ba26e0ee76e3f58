"""``python -m bench.peers [steps|warm]``: Windlass beside other systems, interleaved. Both without arguments."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Protocol

from bench import report
from bench.local_plane import local_plane
from bench.peers import warm
from bench.peers.contestants import Dbos, Ours, dbos_system, postgres_durability, postgres_syncs
from bench.peers.installed import install, version
from bench.peers.restate import Restate, restate_system
from bench.peers.rounds import Round, Series, order
from tests.support.postgres import PostgresServer, postgres_server

_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_ROUNDS", "12"))
_STEPS: Final = 220
_WARM_UP: Final = 20
_ENGINE: Final = {"pool_pre_ping": False}
"""By default DBOS asks before each use of a connection whether the server is there: a round trip more."""


class Contestant(Protocol):
    """Somebody whose steps are timed."""

    async def round(self, count: int) -> Round:
        """Do so many steps, one after the other."""


async def measure(parts: list[str]) -> list[report.Figure]:
    """Measure the parts and return the figures. All who use PostgreSQL use one server."""
    figures = []
    with postgres_server(fsync=True) as server:
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

        contestants: dict[str, Contestant] = {
            "ours, sync": Ours(plane, "sync"),
            "ours, async": Ours(plane, "asynchronous"),
            "DBOS, sync": await dbos("sync", _ENGINE),
            "DBOS, async": await dbos("async", _ENGINE),
            "DBOS as it comes, sync": await dbos("sync", {}),
            "Restate, async": restate,
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
    print("PostgreSQL, for ours and DBOS:", _told(postgres_durability(server.uri())))
    print("Restate:", _told(await restate.durability()))
    for name in ("ours, sync", "DBOS, sync", "Restate, async"):
        count = restate.syncs if name.startswith("Restate") else partial(postgres_syncs, server.uri())
        before = await count()
        (await contestants[name].round(_STEPS)).check(name, _STEPS)
        after = await count()
        print(f"{name}: {(after - before) / _STEPS:.2f} synchronisations of the log for a step")
        if after - before < _STEPS:
            raise RuntimeError(f"{name}: not every step reached the disk; the times could not be compared.")


def _figures(series: dict[str, Series]) -> list[report.Figure]:
    dbos, restate = f"DBOS {version('dbos')}", f"Restate {version('restate-server')}"
    pairs = [
        ("ours, sync", "DBOS, sync", dbos, "ratio<=0.5"),
        ("ours, async", "DBOS, async", dbos, "ratio<=0.5"),
        ("ours, async", "Restate, async", restate, "ratio<=1.0"),
        ("ours, sync", "Restate, async", f"{restate} (async)", ""),
        ("ours, sync", "DBOS as it comes, sync", f"{dbos} as it comes", ""),
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
    install()
    report.write(asyncio.run(measure(sys.argv[1:] or ["steps", "warm"])))


if __name__ == "__main__":
    main()
