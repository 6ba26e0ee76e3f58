"""The REST API and the log route of one API process, with 1,000 finished and 200 running runs in the ledger."""

import asyncio
import http.client
import subprocess
import sys
import time
from urllib.parse import urlsplit

import psycopg

from bench.measured import cpu_seconds
from bench.report import Figure, figure
from tests.support.postgres import postgres_server
from tests.support.rest import ALICE, ROOT
from tests.support.world import World
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate

_FINISHED, _RUNNING, _CALLERS = 1000, 200, 4
_CROWD = """
UPDATE run SET state = 'Succeeded', finished_at = ledger_now(), started_at = created_at, result = '{"ok": true}'
 WHERE id IN (SELECT id FROM run ORDER BY created_at LIMIT %s)
"""
_RUN = "UPDATE run SET state = 'Running', started_at = created_at, attempts = 1 WHERE finished_at IS NULL"


class Caller:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def call(self, method: str, path: str, token: str, body: bytes | None = None) -> bytes:
        """Send a request and return the body of the answer, which must be a success."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300].decode()}")
        return data


def _times(caller: Caller, paths: list[str]) -> list[float]:
    times = []
    for path in paths:
        began = time.perf_counter()
        caller.call("GET", ROOT + path, ALICE)
        times.append((time.perf_counter() - began) * 1000)
    return times


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    with postgres_server(fsync=True) as server:
        uri = server.create_database()
        migrate(uri)
        database = Database(uri, size=8)
        await database.open()
        world = await World(database).start()
        await world.submit(name="order-0")
        [attempt] = await world.claim()  # the others are made running by hand: what a list reads is the same
        runs = [str(await world.submit(payload={"n": n}, name=f"order-{n % 10}")) for n in range(_FINISHED + _RUNNING)]
        with psycopg.connect(uri, options="-c search_path=windlass") as connection:
            connection.execute(_CROWD, (_FINISHED,))
            connection.execute(_RUN)
        await database.fetch("ANALYZE")
        api = subprocess.Popen([sys.executable, "-m", "bench.rest_process", uri], stdout=subprocess.PIPE, text=True)
        assert api.stdout is not None, "it is a pipe"
        url = api.stdout.readline().strip()
        try:
            figures = await asyncio.to_thread(_rest, url, runs, api.pid)
            figures += await asyncio.to_thread(_logs, url, attempt.token, api.pid)
        finally:
            api.terminate()
            api.wait()
        await database.close()
    return figures


def _rest(url: str, runs: list[str], pid: int) -> list[Figure]:
    caller = Caller(url)
    _times(caller, [f"/runs/{run}" for run in runs[:50]])
    about = f"with {_FINISHED} finished and {_RUNNING} running runs"
    lists: dict[str, tuple[str, str]] = {
        "first page of 50": ("/runs", ""),
        "page of 500": ("/runs?limit=500", "<=200"),
        "running": ("/runs?state=Running&limit=500", "<=200"),
        "by task and time": ("/runs?task=order-7&createdAfter=2020-01-01T00:00:00Z", ""),
        "text in error": ("/runs?error=refused", ""),
    }
    used, some = cpu_seconds(pid), runs[::3]
    figures = [figure(f"REST get, {about}", _times(caller, [f"/runs/{run}" for run in some]), "ms", goal="<=5")]
    figures.append(figure("CPU time of the API for a REST get", [(cpu_seconds(pid) - used) / len(some) * 1000], "ms"))
    for name, (path, goal) in lists.items():
        figures.append(figure(f"REST runs list, {name}, {about}", _times(caller, [path] * 20), "ms", goal=goal))
    return figures


def _logs(url: str, token: str, pid: int) -> list[Figure]:
    """Several senders at once, as several pods would be, in processes of their own."""
    rates, costs, lines, first = [], [], 10_000, 1
    for _ in range(3):
        senders = []
        for _ in range(_CALLERS):
            command = [sys.executable, "-m", "bench.log_sender", url, token, str(first), str(lines)]
            senders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            first += lines
        for sender in senders:
            assert sender.stdout is not None, "it is a pipe"
            sender.stdout.readline()
        used, began = cpu_seconds(pid), time.perf_counter()
        for sender in senders:
            assert sender.stdin is not None, "it is a pipe"
            sender.stdin.close()
        if any(sender.wait() for sender in senders):
            raise RuntimeError("a sender failed")
        rates.append(_CALLERS * lines / (time.perf_counter() - began))
        costs.append(_CALLERS * lines / (cpu_seconds(pid) - used))
    return [
        figure(f"log lines through one API process, {_CALLERS} senders", rates, "lines/s", goal=">=20000"),
        figure("log lines for a second of CPU of the API", costs, "lines"),
    ]


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
