"""``python -m bench.peers.many``: durable steps for a second with many runs at once, beside DBOS and Restate.

Ours are attempts that speak the runners' protocol from one process; DBOS runs its workflows in the process that calls
it, Restate in its Python service. Each run saves its steps one after the other and then ends, and all of that counts.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from bench import report
from bench.local_plane import LocalPlane, local_plane
from bench.peers.installed import PYTHON, ROOT, install, version
from bench.peers.restate import Restate, restate_system
from bench.peers.rounds import LostStepsError, order
from tests.support.postgres import postgres_server
from tests.support.world import a_task

_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_ROUNDS", "8"))
_RUNS: Final = 100
_STEPS: Final = 30
_ALL: Final = _RUNS * _STEPS
_ENGINE: Final = {"pool_pre_ping": False, "pool_size": 50, "max_overflow": 50}
"""By default DBOS asks before each use of a connection whether the server is there, and has 20 of them."""

Contestant = Callable[[], Awaitable[float]]
"""Does a round and returns its seconds."""


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """Run a program that answers lines with JSON; gives the function that asks it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT, limit=1 << 24)

    async def ask(line: str) -> Any:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(300):
            return json.loads(await process.stdout.readline())

    assert process.stdout is not None, "it is a pipe"
    await process.stdout.readline()
    try:
        yield ask
    finally:
        process.terminate()
        await process.wait()


def _check(name: str, effects: int, saved: int) -> None:
    if not effects == saved == _ALL:
        raise LostStepsError(f"{name}: of {_ALL} steps {effects} ran, {saved} were saved.")


async def _tokens(plane: LocalPlane) -> list[str]:
    """Return the tokens of as many open attempts as there are runs."""
    world = plane.world
    for _ in range(_RUNS):
        await world.submit(a_task(), name="many")
    before = set(world.cluster.pods)
    await world.pods.start_due()
    pods = [pod for uid, pod in world.cluster.pods.items() if uid not in before]
    taken = [await world.attempts.claim(world.identity(pod), f"claim-{pod.uid}", 1) for pod in pods]
    return [attempt.token for attempts in taken for attempt in attempts]


def _ours(plane: LocalPlane, ask: Callable[[str], Awaitable[Any]]) -> Contestant:
    async def steps() -> int:
        return int((await plane.world.database.fetch("SELECT count(*) AS n FROM step"))[0]["n"])

    async def round_() -> float:
        tokens, before = await _tokens(plane), await steps()
        if len(tokens) != _RUNS:
            raise RuntimeError(f"{len(tokens)} of {_RUNS} attempts could be opened")
        answer = await ask(f"{_STEPS} {' '.join(tokens)}")
        _check("ours", answer["effects"], await steps() - before)
        return float(answer["seconds"])

    return round_


def _dbos(ask: Callable[[str], Awaitable[Any]]) -> Contestant:
    async def round_() -> float:
        answer = await ask(f"{_RUNS} {_STEPS}")
        _check("DBOS", answer["effects"], answer["saved"])
        return float(answer["seconds"])

    return round_


def _restate(system: Restate) -> Contestant:
    async def round_() -> float:
        began = time.perf_counter()
        answers = await asyncio.gather(*(system.call(_STEPS) for _ in range(_RUNS)))
        seconds = time.perf_counter() - began
        timed = sum(len(answer["times"]) for answer in answers)
        _check("Restate", timed, timed)
        return seconds

    return round_


async def measure() -> list[report.Figure]:
    """Measure and return the figures."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server(fsync=True))
        plane = await stack.enter_async_context(local_plane(server))
        restate = await stack.enter_async_context(restate_system())
        host = plane.url.removeprefix("http://")
        ours = await stack.enter_async_context(_process(sys.executable, "-m", "bench.peers.our_many", host))
        contestants = {"ours": _ours(plane, ours), "Restate": _restate(restate)}
        for kind in ("async", "sync"):
            settings = (server.create_database(), json.dumps(_ENGINE), kind)
            program = (str(PYTHON), "-m", "bench.peers.dbos_many", *settings)
            contestants[f"DBOS {kind}"] = _dbos(await stack.enter_async_context(_process(*program)))
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(_ROUNDS + 1):
            for name in order(list(contestants), number):
                seconds = await contestants[name]()
                if number:  # the first round is for connections and caches
                    rates[name].append(_ALL / seconds)
    name = f"durable steps for a second, {_RUNS} runs at once"
    return [
        report.figure(name, rates["ours"], "/s", peer=(shown, rates[peer]), goal=goal)
        for peer, shown, goal in (
            ("DBOS async", f"DBOS {version('dbos')}, async", "ratio>=3"),
            ("DBOS sync", f"DBOS {version('dbos')}, threads", "ratio>=3"),
            ("Restate", f"Restate {version('restate-server')}", "ratio>=1.5"),
        )
    ]


def main() -> None:
    """Install what is missing, measure, write the figures."""
    install()
    report.write(asyncio.run(measure()))


if __name__ == "__main__":
    main()
