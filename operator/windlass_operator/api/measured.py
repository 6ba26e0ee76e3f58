"""Measures requests by route template and class of status."""

import time
from typing import Final

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windlass_operator.metrics import HTTP_SECONDS, OTHER

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GONE: Final = 499
"""The caller left before an answer."""


def timed(method: str, route: str, status: int) -> Histogram:
    """Return where the seconds of such requests go."""
    return HTTP_SECONDS.labels(method if method in _METHODS else OTHER, route, f"{status // 100}xx")


class Measured:
    """Wraps the public routes. The label is the template of the route that answered, never the path of the request.

    The runtime routes measure themselves: a step must not pay for one more layer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and record how long that took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = _GONE

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.monotonic()
        try:
            await self._app(scope, receive, sent)
        finally:
            timed(scope["method"], _route(scope), status).observe(time.monotonic() - began)


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path or OTHER
