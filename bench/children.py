"""Many runs at once: a thousand in one request, and a parent that waits for five hundred.

The second is what ledger and API cost. The children are executed by threads of this process that claim, and report a
result at once: no process is started for them.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import msgspec

from bench.measured import cpu_seconds, quiet
from bench.report import Figure, figure
from bench.rest import Caller
from tests.support.postgres import postgres_server
from tests.support.rest import ALICE, ROOT
from tests.support.world import World
from windlass import protocol
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate

_ITEMS, _CHILDREN, _EXECUTORS, _SLOTS = 1000, 500, 4, 64


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    quiet()
    with postgres_server(fsync=True) as server:
        uri = server.create_database()
        migrate(uri)
        database = Database(uri, size=8)
        await database.open()
        world = await World(database).start()
        processes = [
            subprocess.Popen([sys.executable, "-m", module, uri], stdout=subprocess.PIPE, text=True)
            for module in ("bench.rest_process", "bench.api_process")
        ]
        urls = [process.stdout.readline().strip() for process in processes if process.stdout is not None]
        try:
            figures = await asyncio.to_thread(_bulk, urls[0], processes[0].pid)
            await database.fetch("DELETE FROM queue_entry")
            took, cpu = [], []
            for _ in range(5):
                used = cpu_seconds(processes[1].pid)
                took.append(await _fan_out(world, urls[1]))
                cpu.append(cpu_seconds(processes[1].pid) - used)
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        await database.close()
    name = f"fan-out of {_CHILDREN} children with batch_trigger_and_wait, ledger and API, no runner processes"
    return [*figures, figure(name, took, "s", goal="<=3"), figure("CPU time of the API for that", cpu, "s")]


def _bulk(url: str, pid: int) -> list[Figure]:
    caller = Caller(url)
    items = [{"payload": {"n": n}, "tags": ["crowd"]} for n in range(_ITEMS)]
    body = json.dumps({"items": items}).encode()
    times, used = [], cpu_seconds(pid)
    for _ in range(12):
        began = time.perf_counter()
        caller.call("POST", f"{ROOT}/tasks/order/runs:batch", ALICE, body)
        times.append((time.perf_counter() - began) * 1000)
    cpu = (cpu_seconds(pid) - used) / 12 * 1000
    return [
        figure(f"bulk trigger of {_ITEMS}, one request", times[2:], "ms", goal="<=100"),
        figure("CPU time of the API for that", [cpu], "ms"),
    ]


async def _fan_out(world: World, url: str) -> float:
    """Return the seconds from the parent's request to the claim that brings it all results."""
    run_id = await world.submit()
    [parent] = await _claim(world, 1)
    keys = [f"part#{n}" for n in range(_CHILDREN)]
    children = [
        protocol.Child(
            key=key, name="part", args_hash="a", task="order", payload=msgspec.Raw(b'{"n": 1}'), awaited=True
        )
        for key in keys
    ]
    began = time.perf_counter()
    await asyncio.to_thread(_start_and_suspend, url, parent.token, children)
    todo, turn = _CHILDREN, threading.local()

    def complete(token: str) -> None:
        caller = getattr(turn, "caller", None)
        if caller is None:
            caller = turn.caller = Caller(url)
        caller.call("POST", "/runtime/v1/complete", token, b'{"result": {"n": 1}}')

    with ThreadPoolExecutor(_EXECUTORS) as pool:
        while todo:
            claimed = await _claim(world, _SLOTS)
            todo -= len(claimed)
            await asyncio.gather(
                *(asyncio.get_running_loop().run_in_executor(pool, complete, one.token) for one in claimed)
            )
    while (await world.get(run_id))["state"] != "Queued":
        await asyncio.sleep(0.002)
    [again] = await _claim(world, 1)
    took = time.perf_counter() - began
    if again.run_id != str(run_id) or len(again.steps) != _CHILDREN:
        raise RuntimeError(f"the parent got {len(again.steps)} of {_CHILDREN} results")
    await world.attempts.complete(again.token, protocol.CompleteRequest(result=msgspec.Raw(b"null")))
    return took


def _start_and_suspend(url: str, token: str, children: list[protocol.Child]) -> None:
    caller = Caller(url)
    caller.call("POST", "/runtime/v1/children", token, msgspec.json.encode(protocol.ChildrenRequest(children=children)))
    keys = [child.key for child in children]
    caller.call(
        "POST", "/runtime/v1/suspend", token, msgspec.json.encode(protocol.SuspendRequest(waits=keys, together=[keys]))
    )


async def _claim(world: World, slots: int) -> list[protocol.ClaimedAttempt]:
    """Claim with a pod of its own."""
    await world.pods.start_due()
    _, seen = world.cluster.pods.popitem()
    return await world.attempts.claim(world.identity(seen), str(uuid4()), slots)


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
