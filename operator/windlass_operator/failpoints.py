"""Failpoints of API and operator: around every call to the ledger, the object store and Kubernetes.

Put around the few methods that each of these calls goes through, by the command line, and only when
``WINDLASS_FAILPOINTS`` is set; else this module is not even imported. See :mod:`windlass.failpoints`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import aiohttp
import psycopg
from botocore.client import BaseClient
from botocore.exceptions import ConnectionClosedError
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from windlass.failpoints import Failpoints, FailpointsRefusedError, Role, prepare, wrap
from windlass_operator.config import ConfigError
from windlass_operator.ledger import queries

_VERBS: Final = {"POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}


def install(role: Role) -> None:
    """Put failpoints around the calls of this process.

    Raises:
        ConfigError: They are refused here; see :func:`windlass.failpoints.prepare`.
    """
    try:
        points = prepare(role)
    except FailpointsRefusedError as error:
        raise ConfigError(str(error)) from None
    _wrap_ledger(points)
    _wrap_object_store(points)
    _wrap_kubernetes(points)


def _wrap_ledger(points: Failpoints) -> None:
    names = statements()
    last = "_windlass_last_statement"

    def execute(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def around(self: AsyncConnection[Any], query: Any, *rest: Any, **more: Any) -> Any:
            name = names.get(query) or " ".join(str(query).split()[:2])
            fate = points.reach(f"ledger {name}")
            setattr(self, last, name)
            cursor = await original(self, query, *rest, **more)
            await _end(points, fate, self)
            return cursor

        return around

    def transaction(original: Callable[..., AbstractAsyncContextManager[Any]]) -> Callable[..., Any]:
        @asynccontextmanager
        async def around(self: AsyncConnection[Any], *rest: Any, **more: Any) -> AsyncIterator[Any]:
            nested = self.info.transaction_status != TransactionStatus.IDLE
            fate = None
            async with original(self, *rest, **more) as block:
                yield block
                if not nested:
                    fate = points.reach(f"ledger commit of {getattr(self, last, 'nothing')}")
            await _end(points, fate, self)

        return around

    wrap(AsyncConnection, "execute", execute)
    wrap(AsyncConnection, "transaction", transaction)


async def _end(points: Failpoints, fate: str | None, connection: AsyncConnection[Any]) -> None:
    if fate == "after":
        points.die()
    if fate == "lost":
        await connection.close()  # the server rolls back what is not committed
        raise psycopg.OperationalError("the reply is lost, by a failpoint")


def _wrap_object_store(points: Failpoints) -> None:
    def call(original: Callable[..., Any]) -> Callable[..., Any]:
        def around(self: Any, operation: str, parameters: Any) -> Any:
            fate = points.reach(f"s3 {operation}")
            answer = original(self, operation, parameters)
            if fate == "after":
                points.die()
            if fate == "lost":
                raise ConnectionClosedError(endpoint_url=self.meta.endpoint_url)
            return answer

        return around

    wrap(BaseClient, "_make_api_call", call)


def _wrap_kubernetes(points: Failpoints) -> None:
    def request(original: Callable[..., Awaitable[aiohttp.ClientResponse]]) -> Callable[..., Any]:
        async def around(self: aiohttp.ClientSession, method: str, url: Any, **more: Any) -> aiohttp.ClientResponse:
            fate = points.reach(f"kubernetes {verb_and_kind(method, str(url))}")
            answer = await original(self, method, url, **more)
            if fate == "after":
                points.die()
            if fate == "lost":
                answer.close()
                raise aiohttp.ServerDisconnectedError
            return answer

        return around

    # Kopf's calls and our own both end here; nothing else in these processes uses aiohttp as a client.
    wrap(aiohttp.ClientSession, "_request", request)


def verb_and_kind(method: str, url: str) -> str:
    """Return what a call to the API server does, without names: ``create pods``, ``patch runs/status``."""
    parts = urlsplit(url)
    path = [part for part in parts.path.split("/") if part]
    path = path[2:] if path[:1] == ["api"] else path[3:]
    if not path:
        return f"{method.lower()} {parts.path}"  # discovery
    if path[0] == "namespaces" and len(path) > 2:
        path = path[2:]
    kind = "/".join([path[0], *path[2:]])
    if method.upper() != "GET":
        return f"{_VERBS.get(method.upper(), method.lower())} {kind}"
    if len(path) > 1:
        return f"get {kind}"
    return f"{'watch' if 'watch' in parse_qs(parts.query) else 'list'} {kind}"


def statements() -> dict[str, str]:
    """Return the name of each statement by its text."""
    found: dict[str, str] = {}
    for file in (files(queries.__package__) / "sql").iterdir():
        if file.name.endswith(".sql"):
            found |= {text: name for name, text in queries.load(file.name.removesuffix(".sql")).items()}
    return found
