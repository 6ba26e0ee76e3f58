"""The ASGI application: public routes by FastAPI, runtime routes beside them, health and metrics."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from windlass.protocol import PREFIX
from windlass_operator.api import openapi
from windlass_operator.api.errors import OddPathError, error_response
from windlass_operator.api.measured import Measured
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.domain.errors import WindlassError
from windlass_operator.metrics import REGISTRY

Check = Callable[[], Awaitable[None]]
_CONTROL: Final = frozenset(map(chr, (*range(32), 127)))


class PublicPart(Protocol):
    """Some of the public routes."""

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        ...


def health_routes(ready: Check) -> list[Route]:
    """Return ``/healthz``, ``/readyz`` and ``/metrics``, for every process.

    Alive does not mean ready: while Postgres is away a process is alive, or a restart would only add to the trouble.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            await ready()
        except WindlassError as error:
            return error_response(error)
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        # With many tasks this is thousands of lines: written in a thread, so that no step waits for a scrape.
        text = await asyncio.to_thread(generate_latest, REGISTRY)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class Application:
    """The outermost layer: refuses odd paths and answers every refusal with our body.

    Attributes:
        routes: Every route that is served, for tests that walk them.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        public: FastAPI,
        lifespan: Callable[[Any], Any],
        plain: Sequence[BaseRoute] = (),
    ) -> None:
        self.routes = [*routes, *public.routes]
        self._public = Measured(public)
        # Looked up, not searched for: a router tries one pattern after the other, for each step.
        self._fixed = {
            (m, r.path): r.app for r in routes if isinstance(r, Route) for m in r.methods or () if "{" not in r.path
        }
        # The runtime's routes come first and do not pass through FastAPI: a step must not pay for it. No redirects for
        # a slash at the end: they would be answered before anybody is asked who may see what.
        self._router = Router([*plain, *routes], redirect_slashes=False, default=self._rest, lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            odd = odd_path(scope["raw_path"])
            if odd is not None:
                await error_response(OddPathError(odd))(scope, receive, send)
                return
            scope["app"] = self  # a route then raises what it refuses instead of writing text
            fixed = self._fixed.get((scope["method"], scope["path"]))
            if fixed is not None:
                await fixed(scope, receive, send)
                return
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            await error_response(error)(scope, receive, send)

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(PREFIX):
            raise HTTPException(404)
        await self._public(scope, receive, send)


def build(
    public: Sequence[PublicPart],
    runtime: RuntimeRoutes,
    ready: Check,
    *,
    start: Callable[[], Any],
    version: str,
    plain: Sequence[BaseRoute] = (),
) -> Application:
    """Return the application.

    Args:
        public: The public routes.
        runtime: The runners' routes.
        ready: Asks what this process needs for a sign of life.
        start: An async context manager that opens what the process needs.
        version: Of the release.
        plain: Public routes that are served without FastAPI, which describes them.
    """
    app = FastAPI(title="Windlass", version=version, docs_url=None, redoc_url=None, redirect_slashes=False)
    for part in public:
        app.include_router(part.router())

    async def refused(_: Request, error: Exception) -> Response:
        return error_response(error)

    for kind in (WindlassError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)

    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(openapi.document(app))
        return made

    setattr(app, "openapi", document)  # noqa: B010 - FastAPI's documented way to replace it

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with start():
            yield

    return Application([*health_routes(ready), *runtime.routes()], app, lifespan, plain)


def odd_path(raw: bytes) -> str | None:
    """Return what is odd about a path, or None.

    A proxy that checks paths and this process must not understand one differently: what is a slash to one of them and
    a letter to the other could lead past a rule.
    """
    if b"%" not in raw and b"//" not in raw and b"/." not in raw:
        return None
    lower = raw.lower()
    if b"%2f" in lower or b"%5c" in lower:
        return "an encoded slash or backslash"
    if b"%25" in lower:
        return "an encoded percent sign"
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return "bytes that are not UTF-8"
    if _CONTROL.intersection(text):
        return "a control character"
    if "//" in text:
        return "an empty part"
    return "a part that is . or .." if {".", ".."}.intersection(text.split("/")) else None
