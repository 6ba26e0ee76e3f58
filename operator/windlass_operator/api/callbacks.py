"""The addresses of tokens. They ask nobody who he is: the address itself is the credential.

So it must stand nowhere: not in logs (``logs.py`` takes it out should anybody write it), not in labels of metrics (they
have the route's template), not in errors.
"""

import time
from typing import Final

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response

from windlass_operator import metrics
from windlass_operator.api.answers import json_answer
from windlass_operator.api.messages import read_body
from windlass_operator.domain.errors import PayloadInvalidError, PayloadTooLargeError, WindlassError
from windlass_operator.services.tokens import (
    PATH,
    TokenCompletedError,
    TokenEndedError,
    TokenNotFoundError,
    TokenService,
)

log = structlog.get_logger()

BODY_LIMIT: Final = 64 * 1024
_TELL_EVERY: Final = 60.0
_OUTCOMES: Final[dict[type[WindlassError], str]] = {
    TokenNotFoundError: "unknown",
    TokenCompletedError: "conflict",
    TokenEndedError: "ended",
    PayloadInvalidError: "invalid",
    PayloadTooLargeError: "invalid",
}


class CallbackRoutes:
    """The route of tokens.

    Args:
        tokens: Completes them.
    """

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens
        self._refused: dict[str, int] = {}
        self._told = -_TELL_EVERY

    def router(self) -> APIRouter:
        """Return the route. It is not in the OpenAPI document: nobody makes such an address up."""
        router = APIRouter()
        router.add_api_route(
            PATH + "{token}", self.complete_token, methods=["POST"], response_model=None, include_in_schema=False
        )
        return router

    async def complete_token(self, request: Request, token: str) -> Response:
        """Complete a token with the JSON of the body. The body is read only for who has the secret."""
        try:
            found = await self._tokens.look_up(token)
            repeated = await self._tokens.complete(found, await read_body(request, BODY_LIMIT))
        except WindlassError as error:
            self._note(_OUTCOMES.get(type(error)))
            raise
        metrics.CALLBACKS.labels("repeated" if repeated else "completed").inc()
        return json_answer({"token": str(found.id), "completed": True})

    def _note(self, outcome: str | None) -> None:
        """Count a refusal, and write now and then how many there were: a flood of them must not be one of lines."""
        if outcome is None:
            return
        metrics.CALLBACKS.labels(outcome).inc()
        self._refused[outcome] = self._refused.get(outcome, 0) + 1
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY:
            log.warning("calls to the addresses of tokens were refused", **self._refused)
            self._refused, self._told = {}, now
