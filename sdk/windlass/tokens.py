"""Tokens: ``create_token`` makes an address that somebody outside calls once, ``wait_for`` waits for what was sent."""

import json
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from windlass import branches, protocol
from windlass.context import Active, NotInRunError, active
from windlass.durations import parse_duration
from windlass.steps import step
from windlass.waits import Pending, begin, only_async, only_sync

_NAME: Final = "wait_for"


@dataclass(frozen=True)
class Token:
    """A token.

    Attributes:
        id: Names it, in this run and in others of the namespace. It completes nothing.
        url: Whoever POSTs JSON to it completes the token: give it to nobody else. Not in the run's history.
    """

    id: str
    url: str

    def __repr__(self) -> str:
        """Return the token without its address, which does not belong into logs."""
        return f"Token(id={self.id!r})"


def create_token(timeout: str | timedelta = "7d") -> Coroutine[Any, Any, Token]:
    """Make a token; after a crash it is the same one. It ends with the run.

    Args:
        timeout: How long it can be completed, from now on.

    Raises:
        NotInRunError: There is no run here.
        StepError: Called in synchronous code (use :func:`create_token_sync`), or inside a step.
        ValueError: ``timeout`` is no duration.
    """
    only_async("create_token")
    _attempt()
    return _finish(_make(_milliseconds(timeout)))


def create_token_sync(timeout: str | timedelta = "7d") -> Token:
    """Make a token in synchronous code; see :func:`create_token`."""
    only_sync("create_token")
    _attempt()
    return _token(_make_sync(_milliseconds(timeout)))


def wait_for(token: Token | str, timeout: str | timedelta | None = None) -> Coroutine[Any, Any, Any]:
    """Wait until a token is completed and return the JSON that was sent; None for an empty body. No pod is held.

    Args:
        token: The token, or its id, of this run or of another one of the namespace.
        timeout: How long to wait at most; a token's own end ends the wait in any case.

    Raises:
        WaitTimeoutError: It was not completed in time.
        WaitError: There is no such token.
        StepError: Called in synchronous code (use :func:`wait_for_sync`), or inside a step.
    """
    only_async(_NAME)
    return _wait(_begin(token, timeout))


def wait_for_sync(token: Token | str, timeout: str | timedelta | None = None) -> Any:
    """Wait for a token in synchronous code; see :func:`wait_for`."""
    only_sync(_NAME)
    return _value(_begin(token, timeout).result_sync())


def _begin(token: Token | str, timeout: str | timedelta | None) -> Pending:
    token_id = token.id if isinstance(token, Token) else token
    if not isinstance(token_id, str) or not token_id or len(token_id) > 100:
        raise ValueError(f"wait_for({token!r}): give it a Token or the id of one.")
    due = parse_duration(timeout) if timeout is not None else None
    return begin(_NAME, "token", arguments=[token_id], due_in=due, target=token_id)


async def _wait(pending: Pending) -> Any:
    return _value(await pending.result())


def _value(ended: protocol.Step) -> Any:
    return json.loads(bytes(ended.result) or b"null")


def _milliseconds(timeout: str | timedelta) -> int:
    return round(parse_duration(timeout).total_seconds() * 1000)


def _attempt() -> Active:
    attempt = active()
    if attempt is None:
        raise NotInRunError("There is no run here: create_token() works inside a task that Windlass runs.")
    return attempt


def _request(milliseconds: int) -> protocol.CreateTokenRequest:
    branch = branches.current()
    return protocol.CreateTokenRequest(key=(branch and branch.inside_step) or "", timeout_ms=milliseconds)


async def _make_body(milliseconds: int) -> dict[str, Any]:
    import asyncio

    request = _request(milliseconds)
    created = await asyncio.to_thread(_attempt().transport.create_token, request)
    return {"id": created.id, "key": request.key, "timeoutMs": milliseconds}


def _make_body_sync(milliseconds: int) -> dict[str, Any]:
    request = _request(milliseconds)
    created = _attempt().transport.create_token(request)
    return {"id": created.id, "key": request.key, "timeoutMs": milliseconds}


async def _finish(making: Coroutine[Any, Any, dict[str, Any]]) -> Token:
    import asyncio

    return await asyncio.to_thread(_token, await making)


def _token(made: dict[str, Any]) -> Token:
    """Ask for the token that a step has made. History has no address: more people may read it than may complete."""
    request = protocol.CreateTokenRequest(key=made["key"], timeout_ms=made["timeoutMs"])
    created = _attempt().transport.create_token(request)
    return Token(created.id, created.url)


_make: Final = step(name="create_token")(_make_body)
_make_sync: Final = step(name="create_token")(_make_body_sync)
