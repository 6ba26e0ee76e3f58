"""The operator with 10,000 Run resources: memory beside kopf alone, cold sync, and how far statuses lag behind.

Half of the Runs have succeeded and half are queued for a Task that is missing, all known to the ledger and shown in
their status: what an operator finds after a restart. API server, ledger and operator are the real ones; there is no
kubelet, because no pod is part of what is measured.
"""

import asyncio
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench import crowd
from bench.kube_api import ProgramsMissingError, kube_api
from bench.measured import cpu_seconds, memory_mb
from bench.report import Figure, figure, single
from tests.support.postgres import postgres_server
from windlass_operator.domain.ids import new_id
from windlass_operator.kube.transport import find_configuration
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.ledger.wakeups import Wakeups

RUNS: Final = int(os.environ.get("WINDLASS_BENCH_RUNS", "10000"))
_RATE, _SECONDS = 100, int(os.environ.get("WINDLASS_BENCH_SECONDS", "30"))
_SETTLE: Final = 12
"""Seconds: kopf keeps a worker for each object for five, and the allocator gives back what it can."""
_AT_REST: Final = 40
"""Seconds: at least one resync."""
_PATIENCE: Final = 240


_BEFORE: Final = os.environ.get("WINDLASS_BENCH_BEFORE", "")
"""Another checkout, whose operator is measured too, so that a change is judged within one run."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What it cost kopf alone to see all Runs: seconds, seconds of CPU, MB at rest, MB at most."""

    took: float
    cpu: float
    now: float
    peak: float


@contextmanager
def _process(*command: str, env: dict[str, str], piped: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a Python process for the duration of the block; what it logs is shown if it dies."""
    with tempfile.NamedTemporaryFile(prefix="windlass-bench-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE if piped else log,
            stderr=log,
            text=True,
            env={**os.environ, **env},
        )
        try:
            yield process
            lines = Path(log.name).read_bytes().count(b"\n")
            print(f"  {command[0]} logged {lines} lines")
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {Path(log.name).read_text()[-2000:]}")
        finally:
            if keep := os.environ.get("WINDLASS_BENCH_LOGS"):
                Path(keep, f"{command[0]}.log").write_bytes(Path(log.name).read_bytes())
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _kopf_alone(env: dict[str, str]) -> _Seen:
    """Measure an operator that does nothing."""
    began = time.monotonic()
    with _process("bench.kopf_alone", str(RUNS), env=env, piped=True) as process:
        assert process.stdout is not None, "it is a pipe"
        async with asyncio.timeout(_PATIENCE):
            if not await asyncio.to_thread(process.stdout.readline):
                raise RuntimeError("kopf alone ended before it had seen all Runs")
        took, cpu = time.monotonic() - began, cpu_seconds(process.pid)
        await asyncio.sleep(_SETTLE)
        now, peak = memory_mb(process.pid)
    return _Seen(took, cpu, now, peak)


def _sample(url: str, name: str, **labels: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return 0.0


async def _until_seen(url: str, process: subprocess.Popen[str]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while process.poll() is None:
            try:
                if await asyncio.to_thread(_sample, url, "windlass_runs_observed_total", by="watch") >= RUNS:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError("the operator ended")


@asynccontextmanager
async def _statuses(kubeconfig: Path) -> AsyncIterator[dict[str, float]]:
    """Watch Runs; gives when each message was first seen in a status."""
    configuration = await find_configuration({"KUBECONFIG": str(kubeconfig)})
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_cert_chain(str(configuration.cert_file), configuration.key_file)
    seen: dict[str, float] = {}
    path = f"{configuration.host}/apis/windlass.dev/v1alpha1/namespaces/{crowd.NAMESPACE}/runs"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session:
        async with session.get(path, params={"limit": 1}, ssl=context) as listed:
            version = (await listed.json())["metadata"]["resourceVersion"]
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "300"}
        async with session.get(path, params=query, ssl=context) as stream:

            async def follow() -> None:
                async for line in stream.content:
                    at = time.monotonic()
                    message = (json.loads(line)["object"].get("status") or {}).get("message") or ""
                    seen.setdefault(message, at)

            task = asyncio.create_task(follow())
            try:
                yield seen
            finally:
                task.cancel()


async def _change(database: Database, wakeups: Wakeups, member: crowd.Member, text: str) -> float:
    """Change a run as a service does; return when it was committed."""

    async def work(connection: Connection) -> None:
        await runs.set_reason(connection, [member.run_id], "TaskNotFound", text)

    await database.transaction(work)
    at = time.monotonic()
    wakeups.changed(member.run_id)
    return at


async def _lags(database: Database, uri: str, seen: dict[str, float], members: list[crowd.Member]) -> list[float]:
    """Change 100 runs a second; return for each the seconds from its commit to the status that an observer sees."""
    wakeups = Wakeups(uri, lambda _: None)
    sender = asyncio.create_task(wakeups.run())
    chosen = [member for member in members if member.queued]
    random.shuffle(chosen)
    if len(chosen) < _RATE * _SECONDS:
        raise RuntimeError("too few Runs: a second change of a run may hide the first")
    committed: dict[str, float] = {}

    run, began = new_id().hex[-6:], time.monotonic()

    async def change(number: int) -> None:
        await asyncio.sleep(max(0.0, began + number / _RATE - time.monotonic()))
        text = f"change {number} of {run}"
        committed[text] = await _change(database, wakeups, chosen[number], text)

    await crowd.each(range(_RATE * _SECONDS), change)
    print(f"  {len(committed) / (time.monotonic() - began):.0f} changes/s")
    deadline = time.monotonic() + _PATIENCE / 2
    while len(seen.keys() & committed.keys()) < len(committed) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    missing = len(committed.keys() - seen.keys())
    if missing:
        raise RuntimeError(f"{missing} of {len(committed)} changes were never shown")
    sender.cancel()
    await asyncio.gather(sender, return_exceptions=True)
    return sorted(seen[text] - at for text, at in committed.items())


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    with postgres_server(fsync=True) as server:
        uri = server.create_database()
        migrate(uri)
        database = Database(uri, size=8)
        await database.open()
        try:
            async with kube_api("windlass-system", crowd.NAMESPACE) as (kubeconfig, client):
                began = time.monotonic()
                members, rate = await crowd.gather(client, database, uri, RUNS)
                print(
                    f"  {RUNS} Runs made in {time.monotonic() - began:.0f} s; the API server took {rate:.0f} statuses/s"
                )
                theirs = await _kopf_alone({"KUBECONFIG": str(kubeconfig)})
                if _BEFORE:
                    await _operator(database, uri, kubeconfig, members, theirs, root=Path(_BEFORE))
                return await _operator(database, uri, kubeconfig, members, theirs)
        finally:
            await database.close()


async def _operator(
    database: Database,
    uri: str,
    kubeconfig: Path,
    members: list[crowd.Member],
    theirs: _Seen,
    *,
    root: Path | None = None,
) -> list[Figure]:
    """Measure the operator; that of another checkout if ``root`` names one."""
    port = random.randint(20_000, 30_000)
    env = {"KUBECONFIG": str(kubeconfig), "WINDLASS_POSTGRES_URI": uri, "WINDLASS_PORT": str(port)}
    env |= {"PYTHONPATH": f"{root}/operator:{root}/sdk"} if root else {}
    url, about = f"http://127.0.0.1:{port}", f"with {RUNS:,} Run resources" + (" (before)" if root else "")
    env["WINDLASS_LOG_LEVEL"] = "warning"
    began = time.monotonic()
    with _process("windlass_operator.cli", "operator", env=env) as process:
        await _until_seen(url, process)
        took, cold = time.monotonic() - began, cpu_seconds(process.pid)
        await asyncio.sleep(_SETTLE)
        soon, _ = memory_mb(process.pid)
        used = cpu_seconds(process.pid)
        await asyncio.sleep(_AT_REST)
        rest = (cpu_seconds(process.pid) - used) / _AT_REST
        now, peak = memory_mb(process.pid)
        print(f"  memory {soon:.0f} MB {_SETTLE} s after the cold sync, {now:.0f} MB after a resync")
        peer = "kopf alone"
        figures = [
            single(f"operator's memory {about}", now, "MB", peer=(peer, theirs.now), goal="ratio<=1.3"),
            single(f"operator's largest memory {about}", peak, "MB", peer=(peer, theirs.peak)),
            single(f"cold sync {about}", took, "s", peer=(peer, theirs.took)),
            single(f"CPU of a cold sync {about}", cold, "s", peer=(peer, theirs.cpu)),
            single(f"CPU of the operator at rest {about}", rest * 100, "% of a core"),
        ]
        used = cpu_seconds(process.pid)
        async with _statuses(kubeconfig) as seen:
            lags = await _lags(database, uri, seen, members)
        cost = (cpu_seconds(process.pid) - used) / len(lags)
        figures.append(single(f"CPU of the operator for a change {about}", cost * 1000, "ms"))
        what = f"projection lag at {_RATE} changes/s {about}"
        figures.append(figure(what, lags, "s"))
        figures.append(single(f"{what}, p99", lags[int(len(lags) * 0.99)], "s", goal="<=1"))
    return figures


def main() -> list[Figure]:
    """Measure, where the cluster's programs were built."""
    try:
        return asyncio.run(measure())
    except ProgramsMissingError as error:
        print(f"  left out: {error}")
        return []
