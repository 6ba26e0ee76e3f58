"""The whole API on a real ledger, on a free port, and a caller of it. Kubernetes' answers about people are scripted."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvicorn
import yarl

from tests.support.api_server import NobodyVouches
from tests.support.world import SHOP, World
from windlass_operator.api.app import Application, build
from windlass_operator.api.approvals import ApprovalRoutes
from windlass_operator.api.auth import Authorizer
from windlass_operator.api.callbacks import CallbackRoutes
from windlass_operator.api.events import EventRoutes
from windlass_operator.api.permits import Permits
from windlass_operator.api.pools import PoolRoutes
from windlass_operator.api.public import PublicRoutes
from windlass_operator.api.queues import QueueRoutes
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.identity import TokenIdentity
from windlass_operator.domain.project import Project
from windlass_operator.services.explanation import ExplanationService
from windlass_operator.services.pool_lists import PoolListService
from windlass_operator.services.queue_lists import QueueListService
from windlass_operator.services.results import ResultService
from windlass_operator.services.runs import Changes

ALICE = "token-of-alice"
"""May do everything with runs of namespace shop, and nothing elsewhere."""
VIEWER = "token-of-viewer"
"""May get and list runs of namespace shop; not their logs."""
ROOT = "/api/v1/namespaces/shop"


@dataclass
class FakeReviews:
    """Kubernetes' answers about tokens and permissions, and what was asked.

    Attributes:
        asked: How often each question came: a token, or (user, verb, resource/subresource, namespace).
        broken: Raised instead of any answer.
        slow: Seconds that an answer takes.
    """

    asked: Counter[object] = field(default_factory=Counter)
    broken: WindlassError | None = None
    slow: float = 0.0
    users: dict[str, str] = field(default_factory=lambda: {ALICE: "alice", VIEWER: "viewer"})
    denied: set[str] = field(default_factory=set)
    powerful: set[str] = field(default_factory=lambda: {"alice"})
    """May do everything in namespace shop."""

    async def token_review(self, token: str, audiences: list[str]) -> TokenIdentity | None:
        self.asked[token] += 1
        await self._answer()
        user = self.users.get(token)
        return None if user is None else TokenIdentity(user, uid=f"uid-of-{user}", groups=("system:authenticated",))

    async def allowed(
        self, who: TokenIdentity, verb: str, resource: str, subresource: str, namespace: str, name: str
    ) -> bool:
        what = f"{resource}/{subresource}" if subresource else resource
        self.asked[(who.username, verb, what, namespace)] += 1
        await self._answer()
        if namespace != "shop" or who.username in self.denied:
            return False
        return who.username in self.powerful or (verb in ("get", "list") and not subresource)

    async def _answer(self) -> None:
        await asyncio.sleep(self.slow)
        if self.broken is not None:
            raise self.broken


class Namespaces:
    """One namespace."""

    async def project(self, namespace: str) -> Project:
        return Project(uid=SHOP.uid, namespace=namespace)


@dataclass
class Answer:
    """What came back.

    Attributes:
        text: The body.
    """

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, code and message of a refusal, whose body has to be ours."""
        body = self.json
        assert set(body) <= {"code", "message", "field", "hint"}, body
        return self.status, body["code"], body["message"]


class Rest:
    """A caller of the API.

    Attributes:
        url: Where it is served.
        app: The application.
        reviews: Kubernetes' answers.
        world: The services behind it.
    """

    def __init__(self, url: str, app: Application, reviews: FakeReviews, world: World) -> None:
        self.url, self.app, self.reviews, self.world = url, app, reviews, world
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        """End the session."""
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = ALICE,
        data: bytes | str | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request, its path exactly as given."""
        sent = {"Authorization": f"Bearer {token}"} if token is not None else {}
        if data is not None:
            sent["Content-Type"] = "application/json"
        body = io.BytesIO(data) if isinstance(data, bytes) else data  # aiohttp warns of large bytes
        url = yarl.URL(self.url + path, encoded=True)
        async with self._session.request(
            method, url, data=body, headers={**sent, **(headers or {})}, allow_redirects=False
        ) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    async def get(self, path: str, **more: Any) -> Answer:
        """Get something of namespace shop."""
        return await self.call("GET", ROOT + path, **more)

    async def trigger(self, body: bytes | str | dict[str, Any], *, task: str = "order", **more: Any) -> Answer:
        """Trigger a task of namespace shop."""
        text = json.dumps(body) if isinstance(body, dict) else body
        data = text.encode() if isinstance(text, str) else text
        return await self.call("POST", f"{ROOT}/tasks/{task}/runs", data=data, **more)


def application(world: World, reviews: FakeReviews) -> Application:
    """Return the whole API over the services of a world."""
    permits = Permits(Authorizer(reviews), Namespaces())
    results = ResultService(world.database, Changes())
    public = PublicRoutes(permits, world.submissions, world.runs, world.blobs, results, world.resumption)
    events = EventRoutes(permits, world.events)
    runtime = RuntimeRoutes(
        world.attempts,
        world.steps,
        world.waits,
        world.progress,
        world.children,
        world.blobs,
        world.desk,
        NobodyVouches(),
        events=world.events,
        tokens=world.tokens,
        protection=world.protection,
    )

    @asynccontextmanager
    async def start() -> AsyncIterator[None]:
        yield

    pools = PoolRoutes(permits, PoolListService(world.database))
    queues = QueueRoutes(permits, world.runs, QueueListService(world.database), ExplanationService(world.database))
    return build(
        [public, ApprovalRoutes(permits, world.approvals), events, queues, pools, CallbackRoutes(world.tokens)],
        runtime,
        world.database.check,
        start=start,
        version="test",
        plain=public.plain_routes(),
    )


@asynccontextmanager
async def rest_api(world: World) -> AsyncIterator[Rest]:
    """Serve the whole API of a world while the block runs."""
    reviews = FakeReviews()
    app = application(world, reviews)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", http="httptools", ws="none", access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    rest = Rest(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app, reviews, world)
    try:
        yield rest
    finally:
        await rest.close()
        server.should_exit = True
        await task
