"""One repetition of a scenario: a ledger, a world, a Kubernetes in memory, and the real processes between them.

What Kubernetes would do is done here: API and operator are started again when they end, a pod that is created becomes
a runner process, and its end becomes the pod's status.
"""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
from psycopg.rows import DictRow, dict_row

from tests.crash import effects
from tests.crash.processes import Forge, Process
from tests.support.kube_memory import KubeMemory, kube_memory
from windlass.failpoints import VARIABLE
from windlass_operator.config import S3Config
from windlass_operator.kube.kinds import NAMESPACES, RUNS, TASKS
from windlass_operator.kube.runner_names import RUNNER_CONTAINER

SHOP: Final = "shop"
DEADLINE: Final = 60.0
"""Seconds for one repetition, at least. A calm one takes one or two; what takes this long never ends."""
_AGAIN: Final = 0.02
_FINAL: Final = ("Succeeded", "Failed", "Cancelled", "TimedOut")


class StuckError(Exception):
    """Something that had to happen has not happened within the deadline."""


@dataclass
class Places:
    """Where a repetition keeps what it has.

    Attributes:
        folder: Failpoints and logs.
        ledger: URI of an empty, migrated ledger.
        world: URI of the database of effects.
        s3: The object store, or None.
    """

    folder: Path
    ledger: str
    world: str
    s3: S3Config | None = None


@dataclass
class Plant:
    """Everything that a scenario needs while it runs."""

    forge: Forge
    places: Places
    kube: KubeMemory
    port: int
    database: psycopg.AsyncConnection[DictRow]
    http: aiohttp.ClientSession
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    pods: dict[str, Process] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)

    def apply_task(self, name: str, source: str, function: str = "main", **spec: Any) -> None:
        """Create a Task whose module is ``source``."""
        retry = {"maxAttempts": 4, "minDelay": "10ms", "jitter": "none"}
        entrypoint = f"{name.replace('-', '_')}:{function}"
        full = {"entrypoint": entrypoint, "source": {"inline": source}, "retry": retry, **spec}
        self.kube.put(TASKS, SHOP, {"metadata": {"name": name}, "spec": full})

    def apply_run(self, name: str, task: str, payload: Any = None) -> None:
        """Create a Run."""
        self.kube.put(RUNS, SHOP, {"metadata": {"name": name}, "spec": {"taskRef": {"name": task}, "payload": payload}})

    async def post(self, path: str, body: Any) -> Any:
        """Ask the API as an application does that repeats what got no answer."""
        return await self.until(lambda: self._post(path, body), f"POST {path}")

    async def _post(self, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/namespaces/{SHOP}/{path}"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.post(url, json=body, headers={"Authorization": "Bearer tester"}) as answer:
                if answer.status < 500:
                    assert answer.status < 300, f"{path}: {answer.status} {await answer.text()}"
                    return await answer.json()
        return None

    async def rows(self, query: str, *values: Any) -> list[DictRow]:
        """Look into the ledger."""
        return await (await self.database.execute(query, values)).fetchall()

    async def run_is(self, run_id: str, *states: str) -> None:
        """Wait until a run has one of these states."""

        async def look() -> bool:
            found = await self.rows("SELECT state FROM run WHERE id = %s", run_id)
            return bool(found) and found[0]["state"] in states

        await self.until(look, f"run {run_id} is {' or '.join(states)}")

    async def all_is_over(self) -> None:
        """Wait until every run is final, every pod is gone and nothing is left to show."""

        async def look() -> bool:
            if self.kube.of("pods"):
                return False
            found = await self.rows(
                "SELECT (SELECT count(*) FROM run WHERE state <> ALL(%s)) + (SELECT count(*) FROM projection_entry)"
                " + (SELECT count(*) FROM pod WHERE deleted_at IS NULL) AS left, (SELECT count(*) FROM run) AS runs",
                list(_FINAL),
            )
            return bool(found[0]["runs"]) and not found[0]["left"]

        await self.until(look, "all runs are final, all pods gone and all statuses written")

    async def until(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Return the first answer that counts; the deadline of the repetition is its only limit."""
        while not (found := await look()):
            self._what = what
            await asyncio.sleep(_AGAIN)
        return found

    _what: str = "the beginning"

    @property
    def waited_for(self) -> str:
        """What was waited for last."""
        return self._what

    def spawn(self, work: Any) -> None:
        """Keep a task until the end of the repetition."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def keep(self, role: str, env: dict[str, str]) -> None:
        """Start a process, and again whenever it ends."""
        while True:
            process = await self.forge.start(role, env, self.places.folder / f"{role}.log")
            try:
                code = await asyncio.shield(process.ended)
            except asyncio.CancelledError:
                await process.kill()
                raise
            self.deaths.append(f"{role}: {code}")
            if len(self.deaths) > 20:
                raise StuckError(f"crash loop: {self.deaths}")

    def kubelet(self, change: str, body: dict[str, Any]) -> None:
        """Do what a node does about a pod."""
        if body["kind"] != "Pod":
            return
        name = body["metadata"]["name"]
        if change == "ADDED":
            self.spawn(self._pod(body))
        elif change == "MODIFIED" and "deletionTimestamp" in body["metadata"] and name in self.pods:
            self.pods[name].signal(signal.SIGTERM)

    async def _pod(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        env = self._base() | {item["name"]: self._value(item, body) for item in body["spec"]["containers"][0]["env"]}
        env |= {"WINDLASS_CLAIM_WAIT_MS": "500", "WINDLASS_CLAIM_PATIENCE": "30"}
        process = self.pods[name] = await self.forge.start("runner", env, self.places.folder / "runner.log")
        try:
            self._show(name, "Running", {"running": {"startedAt": "2030-01-01T00:00:00Z"}})
            code = await asyncio.shield(process.ended)
        except asyncio.CancelledError:
            await process.kill()
            raise
        code = code if code >= 0 else 128 - code
        why = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        found = self.kube.objects.get(("pods", SHOP, name))
        self._show(name, "Succeeded" if code == 0 else "Failed", {"terminated": why})
        if found is not None and "deletionTimestamp" in found["metadata"]:
            self.kube.remove("pods", SHOP, name)

    def _show(self, name: str, phase: str, state: dict[str, Any]) -> None:
        containers = [{"name": RUNNER_CONTAINER, "state": state, "ready": phase == "Running"}]
        self.kube.set_status("pods", SHOP, name, {"phase": phase, "containerStatuses": containers})

    def _value(self, item: dict[str, Any], pod: dict[str, Any]) -> str:
        source = item.get("valueFrom")
        if source is None:
            return str(item["value"])
        if "fieldRef" in source:
            return str(pod["metadata"][source["fieldRef"]["fieldPath"].removeprefix("metadata.")])
        secret = self.kube.objects[("secrets", SHOP, source["secretKeyRef"]["name"])]
        return base64.b64decode(secret["data"][source["secretKeyRef"]["key"]]).decode()

    def _base(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": ":".join(sys.path),
            effects.URI: self.places.world,
            VARIABLE: str(self.places.folder),
        }

    def control_plane(self, role: str) -> dict[str, str]:
        """Return the environment of API or operator."""
        env = self._base() | {
            "KUBECONFIG": str(self.places.folder / "kubeconfig"),
            "WINDLASS_POSTGRES_URI": self.places.ledger,
            "WINDLASS_API_URL": f"http://127.0.0.1:{self.port}",
            "WINDLASS_PORT": str(self.port if role == "api" else _free_port()),
            "WINDLASS_LOG_LEVEL": "warning",
            "WINDLASS_LOG_STYLE": "console",
            "WINDLASS_POOL_SIZE": "4",
            "WINDLASS_APPROVAL_TTL": "1s",
            "POD_NAME": f"windlass-{role}-0",
        }
        if (s3 := self.places.s3) is not None:
            env |= {"WINDLASS_S3_BUCKET": s3.bucket, "WINDLASS_S3_ENDPOINT": s3.endpoint or ""}
            env |= {"WINDLASS_S3_ACCESS_KEY": s3.access_key, "WINDLASS_S3_SECRET_KEY": s3.secret_key}
        return env


@asynccontextmanager
async def plant(forge: Forge, places: Places) -> AsyncIterator[Plant]:
    """Keep a plant for the duration of the block."""
    async with (
        kube_memory() as kube,
        await psycopg.AsyncConnection.connect(places.ledger, autocommit=True, row_factory=dict_row) as database,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
    ):
        await database.execute("SET search_path = windlass")
        (places.folder / "kubeconfig").write_text(_KUBECONFIG.format(url=kube.url))
        made = Plant(forge, places, kube, _free_port(), database, http)
        kube.changed = made.kubelet
        for name in (SHOP, "windlass-system"):
            kube.put(NAMESPACES, "", {"metadata": {"name": name}})
        for role in ("api", "operator"):
            made.spawn(made.keep(role, made.control_plane(role)))
        try:
            yield made
        finally:
            kube.changed = lambda _kind, _body: None
            for task in list(made.tasks):
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)


_KUBECONFIG: Final = """apiVersion: v1
kind: Config
current-context: memory
clusters: [{{name: memory, cluster: {{server: "{url}"}}}}]
users: [{{name: tester, user: {{token: tester}}}}]
contexts: [{{name: memory, context: {{cluster: memory, user: tester}}}}]
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
