"""Single triggers by many callers at once, and bulk triggers, through a whole API process.

With ``WINDLASS_BENCH_BESIDE`` set to another checkout, that one's API process is measured in the same rounds.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg

from bench.kube_answers import NAMESPACE, TASK, TOKEN
from bench.measured import cpu_seconds
from bench.report import Figure, figure
from tests.support.postgres import PostgresServer, postgres_server

_HERE: Final = Path(__file__).resolve().parents[1]
_CALLERS: Final = 64
_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_ROUNDS", "8"))
_REQUESTS: Final = int(os.environ.get("WINDLASS_BENCH_REQUESTS", "1500"))
_BULK: Final = 1000
_ROOT: Final = f"/api/v1/namespaces/{NAMESPACE}/tasks/{TASK}/runs"
_BODY: Final = '{"payload":{"orderId":$N,"note":"two of the blue ones"}}'


class Side:
    """An API process of one checkout, with a database of its own and its callers."""

    def __init__(self, uri: str, port: int, api: subprocess.Popen[bytes], callers: asyncio.subprocess.Process) -> None:
        self._uri = uri
        self._url = f"http://127.0.0.1:{port}"
        self._callers = callers
        self.pid = api.pid

    async def singles(self, connections: int, requests: int) -> tuple[float, list[float], float]:
        """Return triggers for a second, their milliseconds, and CPU-milliseconds of the API for each."""
        assert self._callers.stdin is not None, "it is a pipe"
        assert self._callers.stdout is not None, "it is a pipe"
        used, before = cpu_seconds(self.pid), self._count()
        self._callers.stdin.write(f"{connections} {requests}\n".encode())
        async with asyncio.timeout(120):
            answer = json.loads(await self._callers.stdout.readline())
        if self._count() - before != requests:
            raise RuntimeError("runs were lost, or accepted twice")
        return requests / answer["seconds"], answer["times"], (cpu_seconds(self.pid) - used) / requests * 1000

    async def bulk(self) -> float:
        """Return the milliseconds of a request for a thousand runs."""
        items = [{"payload": {"orderId": n, "note": "two of the blue ones"}} for n in range(_BULK)]
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = json.dumps({"items": items}).encode()
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as session:
            began = loop.time()
            async with session.post(f"{self._url}{_ROOT}:batch", data=data, headers=headers) as answer:
                text = await answer.text()
                if answer.status != 201:
                    raise RuntimeError(text[:300])
            return (loop.time() - began) * 1000

    def _count(self) -> int:
        with psycopg.connect(self._uri, options="-c search_path=windlass") as connection:
            row = connection.execute("SELECT count(*) FROM run").fetchone()
        return int(row[0]) if row else 0


@contextmanager
def _kubernetes() -> Iterator[dict[str, str]]:
    """Answer for the API server; gives the environment in which it is found."""
    process = subprocess.Popen([sys.executable, "-m", "bench.kube_answers"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "it is a pipe"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": process.stdout.readline().strip()}}],
                    "users": [{"name": "u", "user": {"token": "nobody-asks"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        try:
            yield {"KUBECONFIG": str(config)}
        finally:
            process.terminate()
            process.wait()


@asynccontextmanager
async def _side(server: PostgresServer, checkout: Path, env: dict[str, str], port: int) -> AsyncIterator[Side]:
    uri = server.create_database()
    env = {
        **os.environ,
        **env,
        "PYTHONPATH": f"{checkout / 'operator'}:{checkout / 'sdk'}:{checkout}",
        "WINDLASS_POSTGRES_URI": uri,
        "WINDLASS_PORT": str(port),
        "WINDLASS_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "windlass_operator.cli"]
    await asyncio.to_thread(subprocess.run, [*command, "migrate"], env=env, cwd=checkout, check=True)
    api = subprocess.Popen([*command, "api"], env=env, cwd=checkout)
    await _until_ready(port)
    pipe = asyncio.subprocess.PIPE
    arguments = [f"127.0.0.1:{port}", _ROOT, TOKEN, _BODY]
    callers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.crowd_of_callers", *arguments, stdin=pipe, stdout=pipe, cwd=_HERE, limit=1 << 24
    )
    assert callers.stdout is not None, "it is a pipe"
    await callers.stdout.readline()
    try:
        yield Side(uri, port, api, callers)
    finally:
        callers.terminate()
        await callers.wait()
        api.terminate()
        api.wait()


async def _until_ready(port: int) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    beside = os.environ.get("WINDLASS_BENCH_BESIDE")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server(fsync=True))
        env = stack.enter_context(_kubernetes())
        checkouts = {"ours": _HERE, **({"beside": Path(beside)} if beside else {})}
        sides = {
            name: await stack.enter_async_context(_side(server, checkout, env, _free_port()))
            for name, checkout in checkouts.items()
        }
        for side in sides.values():
            await side.singles(_CALLERS, 200)
            await side.singles(1, 20)
            await side.bulk()
        seen: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
        for number in range(_ROUNDS):
            for name in list(sides) if number % 2 else list(sides)[::-1]:
                for what, value in (await _round(sides[name])).items():
                    seen[name].setdefault(what, []).append(value)
    return [_figure(what, seen) for what in seen["ours"]]


async def _round(side: Side) -> dict[str, float]:
    rate, times, cost = await side.singles(_CALLERS, _REQUESTS)
    _, alone, cost_alone = await side.singles(1, 100)
    crowd = f"{_CALLERS} callers"
    return {
        f"single triggers for a second, {crowd}": rate,
        f"CPU of the API for a trigger, {crowd}": cost,
        f"trigger, {crowd}": statistics.median(times),
        "trigger, one caller": statistics.median(alone),
        "CPU of the API for a trigger, one caller": cost_alone,
        f"bulk trigger of {_BULK}": await side.bulk(),
    }


_GOALS: Final = {f"bulk trigger of {_BULK}": "<=100", f"single triggers for a second, {_CALLERS} callers": ">=2000"}


def _figure(what: str, seen: dict[str, dict[str, list[float]]]) -> Figure:
    peer: Any = ("another checkout", seen["beside"][what]) if "beside" in seen else None
    unit = "/s" if "for a second" in what else "ms"
    return figure(what, seen["ours"][what], unit, peer=peer, goal=_GOALS.get(what, ""))


def _free_port() -> int:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
