"""Routes that are served without FastAPI, for requests that come by the thousand."""

import re
import time
from collections.abc import Awaitable, Callable

from prometheus_client import Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from windlass_operator.api.errors import error_response
from windlass_operator.api.measured import timed

Handler = Callable[[Request], Awaitable[Response]]


class _PlainRoute(Route):
    """Takes only requests without a query, or with one that needs no second look."""

    queries: re.Pattern[bytes] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Leave a request with another query to those who know what it may have."""
        query = scope.get("query_string")
        if query and not (self.queries and self.queries.fullmatch(query)):
            return Match.NONE, {}
        return super().matches(scope)


class Served:
    """The ASGI application of one route: translates its errors, and measures its time.

    Not a function: Starlette would put two more layers around it. Not a middleware: that would be one more.

    Args:
        handler: Answers a request.
        method: Of the route.
        path: Its template, the label of what is measured.
        note: Told of each request before it is served.
    """

    def __init__(
        self, handler: Handler, method: str, path: str, *, note: Callable[[Scope], None] = lambda _: None
    ) -> None:
        self._handler = handler
        self._method = method
        self._path = path
        self._note = note
        self._seconds: dict[int, Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self._note(scope)
        began = time.monotonic()
        try:
            response = await self._handler(Request(scope, receive, send))
        except Exception as error:  # the edge: whatever it is, the caller gets our error body
            response = error_response(error)
        found = self._seconds.get(response.status_code)
        if found is None:
            found = self._seconds[response.status_code] = timed(self._method, self._path, response.status_code)
        found.observe(time.monotonic() - began)
        await response(scope, receive, send)


def plain_route(method: str, path: str, handler: Handler, *, queries: re.Pattern[bytes] | None = None) -> Route:
    """Return a public route that is served without FastAPI.

    Args:
        method: Of the route.
        path: Its template.
        handler: Answers a request.
        queries: Besides an empty one, the queries that need not be refused; FastAPI's route of the same path serves
            requests with any other.
    """
    route = _PlainRoute(path, Served(handler, method, path), methods=[method], name=handler.__name__)
    route.queries = queries
    return route
