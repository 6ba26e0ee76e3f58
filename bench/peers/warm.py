"""Warm rows: from a trigger to the first line, runs end to end, and steps of many runs, with workers that wait."""

import os
import statistics
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from bench import report
from bench.peers import ours_warm
from bench.peers.bursts import Cost, Ended, check, rate, waits
from bench.peers.contestants import postgres_durability, postgres_syncs
from bench.peers.effect_table import EffectTable
from bench.peers.rounds import order
from bench.peers.temporal import Temporal, eager, temporal_server, warm
from bench.peers.warm_figures import Found, figures, table
from bench.peers.warm_systems import Warm, dbos, procrastinate, restate
from tests.support.postgres import PostgresServer

_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_WARM_ROUNDS", "6"))
_ONLY: Final = tuple(filter(None, os.environ.get("WINDLASS_BENCH_ONLY", "").split(";")))
"""Beginnings of names: only these take part. A look at one peer need not wait for all."""
_ALONE, _PAUSE = 40, 0.04
"""Runs triggered one by one, and the seconds on average between two of them."""
_RUNS, _CLIENTS = 600, 64
_AT_ONCE: Final = 100
_SYNCED: Final = 100
"""Runs after which the log's synchronisations are counted."""
_TUNED: Final = {"polling_interval_sec": 0.01}
_POLLING: Final = {"noop": 0.05, "steps": 0.2}
"""Of DBOS's clients. Oftener took CPU from the worker, and both rows became worse; seldomer keeps clients waiting."""


async def measure(server: PostgresServer) -> list[report.Figure]:
    """Measure and return the figures."""
    async with AsyncExitStack() as stack:
        cores = os.cpu_count() or 1
        temporal, untuned = await _temporal(stack, server)
        systems = {
            **{name: ours_warm.ours(server, name) for name in ours_warm.there()},
            "procrastinate": procrastinate(server, concurrency=_CLIENTS),
            "procrastinate as it comes": procrastinate(server, concurrency=None),
            "DBOS": dbos(
                server, queue=_TUNED, polling=_POLLING, settings={"db_engine_kwargs": {"pool_pre_ping": False}}
            ),
            "DBOS as it comes": dbos(server, share=0.1),
            "Restate": restate(workers=cores),
            "Temporal": warm(temporal, "warm", workers=cores),
            "Temporal, a run is an activity": warm(temporal, "activity", noop="noop_activity", workers=cores, steps=0),
            "Temporal, eager start": eager(temporal, "eager"),
            "Temporal as it comes": warm(untuned, "warm"),
        }
        effects = EffectTable(server.create_database())
        stack.callback(effects.close)
        contestants: dict[str, Warm] = {}
        for name, system in systems.items():
            if _ONLY and not name.startswith(_ONLY):
                continue
            contestants[name] = await stack.enter_async_context(system)
            contestants[name].turn(begins=False)
        bench = _Bench(contestants, effects)
        await bench.durability(server)
        for number in range(_ROUNDS):
            await bench.round(number)
    print(*table(bench.found), sep="\n")
    return figures(bench.found)


async def _temporal(stack: AsyncExitStack, server: PostgresServer) -> list[Temporal]:
    """Start a tuned server, and one that is as it comes."""
    return [await stack.enter_async_context(temporal_server(server, tuned_=tuned)) for tuned in (True, False)]


class _Bench:
    def __init__(self, contestants: dict[str, Warm], effects: EffectTable) -> None:
        self._contestants = contestants
        self._table = effects
        self._bursts = 0
        self.found = {name: Found() for name in contestants}

    async def durability(self, server: PostgresServer) -> None:
        """Print what each one's storage promises, and count how often it really synchronises."""
        print("PostgreSQL, for all but Restate:", _told(postgres_durability(server.uri())))
        for name, one in self._contestants.items():
            one.turn(begins=True)
            count = one.restate.syncs if one.restate else partial(postgres_syncs, server.uri())
            if one.restate:
                print("Restate:", _told(await one.restate.durability()))
            runs = max(1, int(_SYNCED * one.share))
            await self._burst(name, "noop", count=runs, at_once=1)
            before = await count()
            await self._burst(name, "noop", count=runs, at_once=1)
            each = self.found[name].syncs = (await count() - before) / runs
            one.turn(begins=False)
            print(f"{name}: {each:.2f} synchronisations of the log for a run, one after the other")
            if each < 1:
                raise RuntimeError(f"{name}: not every run reached the disk; the times could not be compared.")

    async def round(self, number: int) -> None:
        """Let everybody do everything once. What is compared follows within seconds."""
        turns = order(list(self._contestants), number)
        for what in (self._alone, self._crowd, self._steps):
            for name in turns:
                one = self._contestants[name]
                if what == self._steps and not one.steps:
                    continue
                one.turn(begins=True)
                await self._burst(name, "noop", count=max(8, int(32 * one.share)), at_once=8)
                await what(name)
                one.turn(begins=False)
        found = [f"{n} {f.alone_medians[-1]:.1f} ms, {f.runs[-1]:.0f} runs/s" for n, f in self.found.items()]
        print(f"round {number + 1} of {_ROUNDS}: {'; '.join(found)}", flush=True)

    async def _alone(self, name: str) -> None:
        prefix, runs, _ = await self._burst(
            name, "noop", count=int(_ALONE * self._contestants[name].share), at_once=1, pause=_PAUSE
        )
        times = waits(runs, self._table.first(name, prefix))
        self.found[name].alone += times
        self.found[name].alone_medians.append(statistics.median(times))

    async def _crowd(self, name: str) -> None:
        count = max(_CLIENTS, int(_RUNS * self._contestants[name].share))
        _, runs, cost = await self._burst(name, "noop", count=count, at_once=_CLIENTS)
        self.found[name].runs.append(rate(runs))
        self.found[name].run_costs.append(cost.each(count))

    async def _steps(self, name: str) -> None:
        each = self._contestants[name].steps
        _, runs, cost = await self._burst(name, "steps", count=_AT_ONCE, at_once=_AT_ONCE, argument=each)
        self.found[name].steps.append(rate(runs, each))
        self.found[name].step_costs.append(cost.each(_AT_ONCE * each))

    async def _burst(self, name: str, task: str, **order: float) -> tuple[str, list[Ended], Cost]:
        self._bursts += 1
        prefix, one = f"b{self._bursts}-", self._contestants[name]
        runs, cost = await one.burst(task=task, prefix=prefix, **order)
        self._table.load(name, one.effects)
        check(name, runs, int(order["count"]), int(order.get("argument", 0)), self._table.counted(name, prefix))
        return prefix, runs, cost


def _told(settings: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
