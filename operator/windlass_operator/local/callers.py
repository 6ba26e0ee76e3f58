"""Who may call a local plane: whoever is on this machine, unless a token is set."""

import getpass
import hmac
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from windlass_operator.api.errors import error_response
from windlass_operator.api.runtime import bearer
from windlass_operator.domain.errors import ForbiddenError, UnauthorizedError
from windlass_operator.domain.identity import TokenIdentity

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class LocalReviews:
    """Says yes to everybody, or to who has the token.

    Args:
        token: That callers must send; None for no token.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        try:
            self._name = getpass.getuser()
        except (KeyError, OSError):  # a user id without a name, as containers have
            self._name = "local"

    def token_of(self, request: Request) -> str:
        """Return the token of a request; without one it is everybody's."""
        try:
            return bearer(request)
        except UnauthorizedError:
            if self._token is not None:
                raise
            return ""

    async def token_review(self, token: str, audiences: list[str]) -> TokenIdentity | None:
        """Say whose token this is: the user's who runs the plane."""
        if self._token is not None and not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        return TokenIdentity(self._name, uid="", groups=())

    async def allowed(
        self, who: TokenIdentity, verb: str, resource: str, subresource: str, namespace: str, name: str
    ) -> bool:
        """Allow it."""
        return True


class LoopbackOnly:
    """Refuses what a web page in the user's browser sends.

    The plane listens on the loopback only, but a browser is on the loopback too: a page may send requests to any
    address, and may make its own name lead there. A browser tells where a page comes from, and by what name it calls.

    Args:
        app: Serves what is left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            if _name(host) not in _LOOPBACK or (origin is not None and origin.partition("://")[2] != host):
                refused = ForbiddenError(
                    "Local mode serves this machine only, and no web pages of others.",
                    hint="Call it as 127.0.0.1 or localhost.",
                )
                await error_response(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
