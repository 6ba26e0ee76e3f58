"""Restate as a contestant: its server with a folder of its own, and one Python service."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.peers.installed import PYTHON, ROOT, restate_server
from bench.peers.processes import free_ports
from bench.peers.rounds import Round

_START: Final = 60
"""Seconds until the server serves: it creates its storage first."""
_RESULTS: Final = "SELECT id, count(*) AS n FROM sys_journal WHERE entry_type = 'Notification: Run' GROUP BY id"
_UNLIMITED: Final = 2147483647
_DURABLE: Final = ("rocksdb-disable-wal", "rocksdb-disable-wal-fsync")


class Restate:
    """A running server with the service registered."""

    def __init__(self, ingress: int, admin: int, node: int, configuration: str, pids: Sequence[int] = ()) -> None:
        self._ingress = ingress
        self._admin = admin
        self._node = node
        self._configuration = configuration
        self.pids = tuple(pids)

    @property
    def url(self) -> str:
        """Where it is called."""
        return f"http://127.0.0.1:{self._ingress}"

    async def round(self, count: int) -> Round:
        """Call the handler once."""
        answer, invocation = await asyncio.to_thread(_post, self._ingress, "/bench/steps", count)
        found, _ = await asyncio.to_thread(_post, self._admin, "/query", {"query": _RESULTS})
        saved = {row["id"]: row["n"] for row in found["rows"]}
        return Round(answer["times"], answer["effects"], saved[invocation])

    async def call(self, count: int) -> dict[str, Any]:
        """Call the handler once, for as many steps, and return its answer. Many may be under way."""
        url, headers = f"http://127.0.0.1:{self._ingress}/bench/steps", {"Accept": "application/json"}
        timeout = aiohttp.ClientTimeout(total=120)
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=count, headers=headers, timeout=timeout) as answer,
        ):
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    async def durability(self) -> dict[str, str]:
        """Return what decides whether an answered step survives a power cut."""
        found, section = {}, ""
        for line in self._configuration.splitlines():
            section = line.strip("[]") if line.startswith("[") else section
            name, _, value = line.partition(" = ")
            if section == "log-server" and name in _DURABLE:
                found[f"{section} {name}"] = value
        return {**found, "log replicas": _setting(self._configuration, "default-replication")}

    async def syncs(self) -> int:
        """Return how often the log was synchronised to disk so far."""
        text = await asyncio.to_thread(_get, self._node, "/metrics")
        found = re.search(r'restate_rocksdb_wal_synced_total\{[^}]*db="log-server"[^}]*\} (\d+)', text)
        if found is None:
            raise RuntimeError("Restate's metrics do not say how often its log was synchronised.")
        return int(found[1])


@asynccontextmanager
async def restate_system(settings: dict[str, str] | None = None, *, workers: int = 1) -> AsyncIterator[Restate]:
    """Run server and service for the duration of the block.

    Args:
        settings: Environment variables of both that differ from the server's defaults.
        workers: Processes of the service.
    """
    ingress, admin, node, service = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="windlass-restate-") as name:
        folder = Path(name)
        env = {
            **os.environ,
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_BIND_IP": "127.0.0.1",
            "RESTATE_BIND_PORT": str(node),
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_BASE_DIR": str(folder / "data"),
            **(settings or {}),
        }
        configuration, processes = _start(folder, env, service, workers)
        try:
            system = Restate(ingress, admin, node, configuration, [process.pid for process in processes])
            address = {"uri": f"http://127.0.0.1:{service}"}
            await _until(lambda: _post(admin, "/deployments", address), folder)
            await _until(lambda: _post(ingress, "/bench/steps", 1), folder)
            yield system
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _start(folder: Path, env: dict[str, str], port: int, workers: int) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """Start server and service. Returns the server's configuration as well, as it says it itself."""
    program = str(restate_server())
    done = subprocess.run([program, "--dump-config"], env=env, capture_output=True, text=True, check=True)
    # As its documentation runs it in production.
    config = folder / "hypercorn.toml"
    limits = ("h2_max_concurrent_streams", "keep_alive_max_requests", "keep_alive_timeout")
    lines = [f'bind = "127.0.0.1:{port}"', f"workers = {workers}", *(f"{limit} = {_UNLIMITED}" for limit in limits)]
    config.write_text("\n".join(lines))
    service = [str(PYTHON), "-m", "hypercorn", "--config", str(config), "bench.peers.restate_service:app"]
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen([program, "--no-logo"], env=env, stdout=log, stderr=log),
            subprocess.Popen(service, cwd=ROOT, env=env, stdout=log, stderr=log),
        ]
    return done.stdout, processes


async def _until(call: Callable[[], object], folder: Path) -> None:
    deadline = time.monotonic() + _START
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, RuntimeError):
            await asyncio.to_thread(call)
            return
        if time.monotonic() > deadline:
            said = await asyncio.to_thread((folder / "log").read_text, errors="replace")
            raise RuntimeError(f"Restate does not serve: {said[-2000:]}")
        await asyncio.sleep(0.1)


def _post(port: int, path: str, body: Any) -> tuple[Any, str]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {data[:500].decode(errors='replace')}")
        return json.loads(data), answer.getheader("x-restate-id", "")


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def _setting(configuration: str, name: str) -> str:
    return next(line for line in configuration.splitlines() if line.startswith(name)).partition(" = ")[2]
