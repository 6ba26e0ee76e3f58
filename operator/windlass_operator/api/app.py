"""The ASGI application: public routes by FastAPI, runtime routes beside them, health and metrics."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router

from windlass.protocol import PREFIX
from windlass_operator.api.errors import error_response
from windlass_operator.api.public import PublicRoutes
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.domain.errors import InvalidRequestError, WindlassError

Check = Callable[[], Awaitable[None]]


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
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def build(
    public: PublicRoutes, runtime: RuntimeRoutes, ready: Check, *, start: Callable[[], Any], version: str
) -> Router:
    """Return the application. ``start`` is an async context manager that opens what the process needs."""
    app = FastAPI(
        title="Windlass",
        version=version,
        summary="Durable background tasks for Kubernetes.",
        description=(
            "Authenticate with a Kubernetes token of audience `windlass`; what it may do is what RBAC grants on "
            "`runs.windlass.dev` in the namespace of the path."
        ),
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(public.router())

    async def refused(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            return error_response(InvalidRequestError(f"{where}: {problem['msg']}", field=where))
        if isinstance(error, HTTPException):
            return error_response(_NoRouteError(error))
        return error_response(error)

    for kind in (WindlassError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with start():
            yield

    # The runtime's routes come first and do not pass through FastAPI: a step must not pay for it.
    return Router(
        [*health_routes(ready), *runtime.routes(), Mount(PREFIX, _nothing), Mount("/", app)], lifespan=lifespan
    )


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    await error_response(_NoRouteError(HTTPException(404)))(scope, receive, send)


class _NoRouteError(WindlassError):
    """A path or method that is not served."""

    def __init__(self, error: HTTPException) -> None:
        self.http_status = error.status_code
        self.code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "InvalidRequest")
        super().__init__(f"{error.detail}. `/openapi.json` lists what is served.")
