"""``windlass-operator doctor``: the control plane's own surroundings, seen with its own configuration.

Run it where the processes run:
``kubectl -n windlass-system exec deploy/windlass-operator -- windlass-operator doctor``.
It changes nothing but one object of the object store, which it deletes again.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from windlass.connection import Connection
from windlass.findings import Finding
from windlass_operator.blobs.s3 import S3BlobStore
from windlass_operator.blobs.store import BlobKey, BlobStore
from windlass_operator.config import Config, ConfigError
from windlass_operator.domain.errors import WindlassError
from windlass_operator.kube import permissions
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.kinds import APPROVALS, RUNS, TASKS
from windlass_operator.kube.permissions import Permission, Process
from windlass_operator.ledger.migrate import schema_gap

_OLDEST_POSTGRES: Final = 140_000
_PATIENCE: Final = 5
_PROJECT: Final = "windlass-doctor"
"""Of the object that is written to the store. Should its deletion fail, the sweeper finds it like any other."""
_ASK_AT_ONCE: Final = 8


async def examine(process: Process, env: Mapping[str, str] | None = None) -> AsyncIterator[Finding]:
    """Yield what is found, as it is found.

    Args:
        process: Whose permissions are asked for. They are those of the pod in which this runs.
        env: The environment; this process's by default.
    """
    try:
        config = Config.from_env(os.environ if env is None else env)
    except ConfigError as error:
        yield Finding("configuration", "fail", error.message, error.hint or "Compare with the chart's values.")
        return
    yield Finding("configuration", "ok", _scope(config))
    for finding in await asyncio.to_thread(lambda: list(ledger(config.postgres_uri))):
        yield finding
    yield await _objects(config)
    async for finding in _cluster(config, process):
        yield finding
    yield await asyncio.to_thread(_api, config.api_url)


def _scope(config: Config) -> str:
    where = f"the namespaces {', '.join(config.namespaces)}" if config.namespaces else "the whole cluster"
    return f"Serves {where}; runners use {config.runner_image} by default."


def ledger(uri: str) -> Iterator[Finding]:
    """Look at database and schema."""
    began = time.monotonic()
    try:
        with psycopg.connect(uri, autocommit=True, connect_timeout=_PATIENCE) as connection:
            version = connection.info.server_version
            standby = connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        gap = schema_gap(uri)
    except (psycopg.Error, WindlassError) as error:
        mend = "Is PostgreSQL up, and is `uri` in the Secret windlass-postgres right?"
        yield Finding("ledger", "fail", (str(error).strip() or type(error).__name__).splitlines()[0], mend)
        return
    took = round((time.monotonic() - began) * 1000)
    name = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if standby:
        yield Finding("ledger", "fail", f"{name} is a standby: it takes no writes.", "Let `uri` name the primary.")
    elif version < _OLDEST_POSTGRES:
        yield Finding("ledger", "fail", f"{name} is too old.", "Use PostgreSQL 14 or newer.")
    else:
        yield Finding("ledger", "ok", f"{name} answers within {took} ms.")
    if gap.unknown:
        mend = "Install the newer release again; migrations only go forward."
        yield Finding("schema", "fail", f"{gap.unknown} migrations are of a newer release than this one.", mend)
    elif gap.pending:
        mend = "`windlass-operator migrate` applies them; the init containers of operator and API run it."
        yield Finding("schema", "fail", f"Not yet applied: {', '.join(gap.pending)}.", mend)
    else:
        yield Finding("schema", "ok", "The schema is this release's.")


async def _objects(config: Config) -> Finding:
    if config.s3 is None:
        return Finding("object store", "ok", "None is configured: large values are kept in the ledger, up to 8 MiB.")
    store = S3BlobStore(config.s3)
    try:
        return await write_read_delete(store, f"{config.s3.endpoint or 'AWS'}, bucket {config.s3.bucket}")
    finally:
        await store.close()


async def write_read_delete(store: BlobStore, where: str) -> Finding:
    """Use a store as the API does: list, write, read, delete."""
    run, data = uuid4(), b"windlass-operator doctor"
    key = BlobKey.of(_PROJECT, run, data)
    began = time.monotonic()
    try:
        await store.check()
        await store.put(key, data)
        if await store.get(key) != data or await store.delete_run(_PROJECT, run) != 1 or await store.exists(key):
            return Finding("object store", "fail", f"{where} does not keep what it is given.", "Use another store.")
    except WindlassError as error:
        mend = error.hint or "See the Secret windlass-s3; without one, large values are kept in the ledger."
        return Finding("object store", "fail", error.message, mend)
    took = round((time.monotonic() - began) * 1000)
    return Finding("object store", "ok", f"{where}: listed, written, read and deleted within {took} ms.")


async def _cluster(config: Config, process: Process) -> AsyncIterator[Finding]:
    try:
        client = await KubeClient.connect(local_reviews=bool(config.namespaces))
    except WindlassError as error:
        yield Finding("kubernetes", "fail", error.message, "Run this in a pod of the control plane, or set KUBECONFIG.")
        return
    try:
        yield await _resources(client, config)
        yield await granted(client, process, config.namespaces, config.release_namespace)
    except WindlassError as error:
        yield Finding("kubernetes", "fail", error.message, error.hint or "Does the API server answer other pods?")
    finally:
        await client.close()


async def _resources(client: KubeClient, config: Config) -> Finding:
    for kind in (TASKS, RUNS, APPROVALS):
        # A server without the kind answers 404 even to who may not list it; 403 means that it is there.
        if not await client.knows(kind, next(iter(config.namespaces), None)):
            mend = "helm upgrade windlass with crds.install=true, or kubectl apply -f crds/."
            return Finding("resources", "fail", f"The cluster does not know {kind.plural}.{kind.group}.", mend)
    return Finding("resources", "ok", f"The cluster knows Tasks, Runs and Approvals of {TASKS.group}.")


async def granted(client: KubeClient, process: Process, namespaces: tuple[str, ...], release: str) -> Finding:
    """Ask by SelfSubjectAccessReviews for everything that the chart grants this process."""
    slots = asyncio.Semaphore(_ASK_AT_ONCE)

    async def ask(permission: Permission) -> bool:
        async with slots:
            return await client.may(permission)

    wanted = list(permissions.of(process, namespaces, release))
    answers = await asyncio.gather(*(ask(permission) for permission in wanted))
    lacking = [str(permission) for permission, allowed in zip(wanted, answers, strict=True) if not allowed]
    if not lacking:
        return Finding("permissions", "ok", f"All {len(wanted)} permissions of the {process} are granted.")
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    mend = "The chart's roles grant them: helm upgrade, or compare with `helm get manifest windlass`."
    if len(lacking) > len(wanted) // 2:
        mend += f" Does this run in a pod of the {process}? --process says whose permissions to ask for."
    return Finding("permissions", "fail", f"Not granted: {', '.join(lacking[:5])}{more}.", mend)


def _api(url: str) -> Finding:
    parts = urlsplit(url)
    mend = "Runner pods call this address: check the Service windlass-api, its pods, and network policies."
    try:
        connection = Connection(parts.hostname or "", parts.port or 80, timeout=_PATIENCE)
        try:
            status = connection.call("GET", "/readyz", "Connection: close\r\n").status
        finally:
            connection.close()
    except OSError as error:
        return Finding("api", "fail", f"{url} does not answer: {error}", mend)
    if status != 200:
        return Finding("api", "fail", f"{url}/readyz answers {status}.", mend)
    return Finding("api", "ok", f"{url} answers and is ready.")
