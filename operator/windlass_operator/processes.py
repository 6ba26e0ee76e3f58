"""The two long-running processes: the API, and the operator that leads."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, cast

import kopf
import structlog
import uvicorn
from starlette.applications import Starlette

from windlass_operator import __version__, metrics
from windlass_operator.api.app import health_routes
from windlass_operator.config import Config
from windlass_operator.context import Context, Operator
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.handlers import watch
from windlass_operator.kube.approvals import KubeApprovals
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.cluster import KubeCluster
from windlass_operator.kube.election import lead
from windlass_operator.kube.kinds import QUEUES, WORKER_POOLS
from windlass_operator.kube.manifests import RunnerSettings
from windlass_operator.kube.objects import KubeObjects
from windlass_operator.kube.permissions import LEASE_NAME
from windlass_operator.services.platform import Platform
from windlass_operator.serving import ReadyOnce, application, settings

log = structlog.get_logger()


async def serve_api(config: Config) -> None:
    """Serve the public API and the runners' protocol until a signal."""
    _, cluster, context = await _connect(config, "windlass-api")
    _prepare_metrics(config)
    await uvicorn.Server(settings(application(context, cluster), config.port)).serve()


async def _connect(config: Config, service: str) -> tuple[KubeClient, KubeCluster, Context]:
    """Return a context for the configured cluster and ledger. Nothing is asked of either yet."""
    client = await KubeClient.connect(local_reviews=bool(config.namespaces))
    identity = cast("Literal['secret', 'token']", config.runner_identity)
    cluster = KubeCluster(
        client,
        RunnerSettings(api_url=config.api_url, identity=identity, runner_image=config.runner_image),
        default_image=config.runner_image,
        namespaces=config.namespaces,
    )
    return client, cluster, Context(config, _platform(config, client, cluster), service)


def _platform(config: Config, client: KubeClient, cluster: KubeCluster) -> Platform:
    return Platform(
        cluster,
        KubeApprovals(client, namespaces=config.namespaces),
        KubeObjects(client, QUEUES, namespaces=config.namespaces),
        KubeObjects(client, WORKER_POOLS, namespaces=config.namespaces),
        client.close,
    )


async def operate(config: Config) -> None:
    """Wait for the lead, then watch, start pods and write statuses until a signal or the loss of the lead.

    Raises:
        LeadershipLostError: Another process leads; the container restarts and waits for its turn.
    """
    client, cluster, context = await _connect(config, "windlass-operator")
    _prepare_metrics(config)
    stop, led = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def leading(guard: Callable[[], None]) -> None:
        led.set()
        guarded = client.guarded(guard)
        operator = await _lead_ledger(context, _platform(config, guarded, cluster.through(guarded)))
        loops = asyncio.create_task(operator.run(), name="loops")
        watching = asyncio.create_task(_watch(config, operator, stop), name="watch")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({loops, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                await task  # its error, if it has one, ends the process
        finally:
            stop.set()
            for task in (loops, stopping):
                task.cancel()
            await asyncio.gather(loops, watching, stopping, return_exceptions=True)

    async with context.running(), _health(context, config.port):
        election = asyncio.create_task(
            lead(
                client,
                namespace=config.release_namespace,
                name=LEASE_NAME,
                identity=config.pod_name,
                on_started=leading,
            )
        )
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({election, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if election not in done:
            if led.is_set():  # the leader's work ends by the same event; who only waits for the lead is cancelled
                await asyncio.wait({election}, timeout=10)
            election.cancel()
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await election


def _prepare_metrics(config: Config) -> None:
    metrics.BUILD.labels(__version__).set(1)
    metrics.task_labels.limit = config.metrics_tasks


async def _watch(config: Config, operator: Operator, stop: asyncio.Event) -> None:
    await kopf.operator(
        registry=watch.registry(operator),
        settings=watch.settings(listed_namespaces=bool(config.namespaces)),
        clusterwide=not config.namespaces,
        namespaces=list(config.namespaces),
        standalone=True,
        stop_flag=stop,
    )


async def _lead_ledger(context: Context, platform: Platform) -> Operator:
    while True:
        try:
            return await Operator.lead(context, platform)
        except LedgerUnavailableError as error:
            log.warning("waiting for the ledger", error=error.message)
            await asyncio.sleep(1)


@asynccontextmanager
async def _health(context: Context, port: int) -> AsyncIterator[None]:
    app = Starlette(routes=health_routes(ReadyOnce(context.database.check)))
    server = uvicorn.Server(settings(app, port))
    setattr(server, "capture_signals", contextlib.nullcontext)  # noqa: B010 - the operator handles signals itself
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
