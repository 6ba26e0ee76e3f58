"""The control plane of local mode: API, runners' protocol and operator in one process, on a ledger of its own.

Everything but the place of resources and pods is what runs in a cluster: the same services, SQL, protocol and runner.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import uvicorn

from windlass_operator.config import Config
from windlass_operator.context import Context, Operator
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.pods import PodSeen
from windlass_operator.ledger import heads, pods, projection
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.local.approvals import LocalApprovals
from windlass_operator.local.callers import LocalReviews, LoopbackOnly
from windlass_operator.local.cluster import LocalCluster
from windlass_operator.local.objects import LocalObjects
from windlass_operator.local.pods import LocalPods
from windlass_operator.local.resources import Applied, LocalResources
from windlass_operator.resources.names import QUEUE_KIND, RUN_KIND, TASK_KIND, WORKER_POOL_KIND
from windlass_operator.services.platform import Platform
from windlass_operator.serving import application, settings

_HOST: Final = "127.0.0.1"
_CONNECTIONS: Final = 16
"""To the ledger: API and operator share them."""


class PortTakenError(WindlassError):
    """Something else listens on the port."""

    code = "PortTaken"

    def __init__(self, port: int) -> None:
        super().__init__(f"Port {port} is taken by another program. Choose another one, or 0 for any that is free.")


class LocalPlane:
    """A plane that runs. Made by :meth:`start`.

    Attributes:
        url: Of the API.
        context: Services and ledger.
        resources: Tasks and Runs.
        runners: The processes of runs.
    """

    def __init__(self, url: str, context: Context, resources: LocalResources, runners: LocalPods) -> None:
        self.url = url
        self.context = context
        self.resources = resources
        self.runners = runners
        self._operator: Operator | None = None
        self._parts: list[asyncio.Task[None]] = []

    @property
    def database(self) -> Database:
        """The ledger."""
        return self.context.database

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        dsn: str,
        tasks: Iterable[Mapping[str, Any]] = (),
        *,
        port: int = 0,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        token: str | None = None,
        grace: float = 2.0,
        now: Callable[[], datetime] | None = None,
        cluster_of: type[LocalCluster] = LocalCluster,
        operates: bool = True,
    ) -> AsyncIterator["LocalPlane"]:
        """Run a plane for the duration of the block.

        Args:
            dsn: libpq URI of a PostgreSQL database, which is brought to this release's schema.
            tasks: Tasks and Runs that are there from the beginning.
            port: Of the API, on the loopback; 0 for one that is free.
            folder: Where runners run; the current folder by default.
            environment: Variables of runners besides those of this process, such as ``PYTHONPATH``.
            token: That callers must send; None: everybody on this machine may call.
            grace: Seconds that user code gets to end when its runner is to stop.
            now: The ledger's time where a test moves it; None for the database's own clock.
            cluster_of: What stands for Kubernetes.
            operates: Whether runs go on by themselves. Without that nothing starts a runner, and no lease runs out.

        Raises:
            PortTakenError: Something else listens there.
            ResourceInvalidError: One of ``tasks`` cannot be read.
            TaskInvalidError: One of them cannot be run here.
            SchemaUnknownError: The database was used by a newer release.
        """
        resources = LocalResources()
        for body in tasks:
            resources.apply(body)
        with _listening(port) as listener:
            await asyncio.to_thread(migrate, dsn)
            runners = LocalPods(folder or Path.cwd(), environment or {}, grace=grace)
            cluster = cluster_of(resources, runners)
            url = cluster.api_url = f"http://{_HOST}:{listener.getsockname()[1]}"
            config = Config(postgres_uri=dsn, api_url=url, pod_name="local", pool_size=_CONNECTIONS)
            platform = Platform(
                cluster,
                LocalApprovals(),
                LocalObjects(resources, QUEUE_KIND),
                LocalObjects(resources, WORKER_POOL_KIND),
                _nothing,
            )
            plane = cls(url, Context(config, platform, "windlass-dev", now=now), resources, runners)
            async with plane._serving(listener, token), plane._operating() if operates else contextlib.nullcontext():
                yield plane

    async def apply(self, body: Mapping[str, Any]) -> Applied:
        """Create or change a resource, as ``kubectl apply`` does.

        Raises:
            ResourceInvalidError: It cannot be read; the error names the field.
            TaskInvalidError: A Task that cannot be run here.
        """
        applied = self.resources.apply(body)
        if applied.replaced is not None:
            await self._tell(applied.replaced, deleted=True)
        if applied.changed:
            await self._tell(applied.body)
        return applied

    async def delete(self, kind: str, namespace: str, name: str) -> bool:
        """Delete a resource, as ``kubectl delete`` does; False if there is none."""
        found = self.resources.delete(kind, namespace, name)
        if found is None:
            return False
        await self._tell(found, deleted=True)
        return True

    async def wait(self) -> None:
        """Wait for the end of a part that never ends by itself, and raise what ended it."""
        done, _ = await asyncio.wait(self._parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
        raise WindlassError("A part of the local plane has ended.")

    async def _tell(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        assert self._operator is not None, "the plane runs"
        operator = self._operator
        tell = {
            TASK_KIND: operator.task_seen,
            RUN_KIND: operator.run_seen,
            QUEUE_KIND: operator.queue_seen,
            WORKER_POOL_KIND: operator.worker_pool_seen,
        }
        await tell[body["kind"]](body, deleted=deleted)

    @asynccontextmanager
    async def _serving(self, listener: socket.socket, token: str | None) -> AsyncIterator[None]:
        reviews = LocalReviews(token)
        app = application(self.context, reviews, token_of=reviews.token_of, endings=False)
        config = settings(LoopbackOnly(app), 0, host=_HOST)
        config.timeout_graceful_shutdown = 1  # who follows a run holds a connection, and Ctrl-C must not wait for that
        server = uvicorn.Server(config)
        setattr(server, "capture_signals", contextlib.nullcontext)  # noqa: B010 - signals are for who runs the plane
        task = asyncio.create_task(server.serve(sockets=[listener]), name="api")
        self._parts.append(task)
        try:
            while not server.started:
                if task.done():
                    task.result()
                    raise WindlassError("The API did not start.")
                await asyncio.sleep(0.005)
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def _operating(self) -> AsyncIterator[None]:
        operator = self._operator = await Operator.lead(self.context)
        await self._take_over(operator)
        self.runners.observe = operator.observe_pod
        for kind in (QUEUE_KIND, WORKER_POOL_KIND, TASK_KIND, RUN_KIND):
            for body in self.resources.all(kind):
                await self._tell(body)
        task = asyncio.create_task(operator.run(), name="operator")
        self._parts.append(task)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.runners.close()  # the API still serves: runners hand their runs back

    async def _take_over(self, operator: Operator) -> None:
        """Make good what an earlier plane left behind, however it ended: its runners ended with it."""
        for head in await heads.known(self.database):  # those that are still there are told anew
            await heads.drop(self.database, head.uid)
        for row in await pods.believed_alive(self.database, timedelta(0)):
            name, namespace, uid = row["name"], row["namespace"], row["uid"]
            gone = PodSeen(name, namespace, uid, exists=False, ended=True, succeeded=False, started=False)
            await operator.observe_pod(gone)
        for row in await projection.unfinished_resources(self.database, timedelta(0)):
            self.resources.remember_run(row["namespace"], row["resource_name"], row["resource_uid"])


@contextlib.contextmanager
def _listening(port: int) -> Any:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError:
            raise PortTakenError(port) from None
        yield listener


async def _nothing() -> None:
    pass
