"""A stand-in for the API server that answers what a test scripted: for answers that a healthy one does not give."""

import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client.configuration import Configuration

from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.transport import Transport


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer. ``body`` is JSON unless it is text; None closes the connection without any answer."""

    status: int | None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any


def status(code: int, reason: str, message: str = "", **details: Any) -> Scripted:
    """Return a ``Status`` object, as the API server answers errors."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return Scripted(code, {**body, "message": message, "details": details})


class KubeServer:
    """Gives the scripted answers in order; the last one again and again.

    Attributes:
        seen: The requests, in order.
        paused: The seconds that the client waited between tries. It did not really wait.
        client: A client of this server.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.paused: list[float] = []
        self._script: deque[Scripted] = deque()
        self.client: KubeClient
        self.url: str

    def will(self, *answers: Scripted) -> None:
        """Set the answers."""
        self._script = deque(answers)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Note the request and give the next answer."""
        text = await request.text()
        seen = Seen(
            request.method, request.path, dict(request.query), request.content_type, json.loads(text) if text else None
        )
        self.seen.append(seen)
        scripted = self._script.popleft() if len(self._script) > 1 else self._script[0]
        if scripted.status is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        body = scripted.body if isinstance(scripted.body, str) else json.dumps(scripted.body)
        return web.Response(status=scripted.status, text=body, headers=scripted.headers)

    async def pause(self, seconds: float) -> None:
        """Stand in for sleeping between tries."""
        self.paused.append(seconds)


@contextlib.asynccontextmanager
async def kube_server(*, local_reviews: bool = False) -> AsyncIterator[KubeServer]:
    """Run a server, and a client of it, while the block runs."""
    kube = KubeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", kube.answer)
    server = TestServer(app)
    await server.start_server()
    kube.url = str(server.make_url("")).rstrip("/")
    transport = Transport(Configuration(host=kube.url))
    kube.client = KubeClient(transport, local_reviews=local_reviews, pause=kube.pause)
    try:
        yield kube
    finally:
        await kube.client.close()
        await server.close()
