"""``send_event`` tells the runs of the namespace that something has happened, ``wait_for_event`` waits for it."""

import hashlib
import json
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from windlass import branches, protocol
from windlass.context import Active, active
from windlass.durations import parse_duration
from windlass.errors import StepError
from windlass.serialization import encode
from windlass.steps import step
from windlass.waits import Pending, begin, only_async, only_sync

_NAME: Final = "wait_for_event"
_WORD: Final = re.compile(protocol.EVENT_NAME)
_MATCH_MAX: Final = 16 * 1024


@dataclass(frozen=True)
class Event:
    """An event that came.

    Attributes:
        name: What was waited for.
        id: The sender's word for it, or one that was made up.
        payload: JSON.
        sent_at: When it came, by the ledger's clock.
    """

    name: str
    id: str
    payload: Any
    sent_at: datetime


def send_event(name: str, payload: Any = None, *, id: str | None = None) -> Coroutine[Any, Any, str]:  # noqa: A002 - the event's own word
    """Send an event to the runs of the namespace that wait for it, now or later; return its id.

    In a run this is a step: after a crash it is not sent again. Outside a run it asks the API, as :class:`Client` does.

    Args:
        name: What they wait for: 1 to 200 characters.
        payload: Its content, at most 64 KiB of JSON.
        id: A word for this event: one with the same id reaches nobody again.

    Raises:
        StepError: Called in synchronous code (use :func:`send_event_sync`), or inside a step.
        ValueError: The name or the id is none.
        ApiError: Outside a run: the API refused it or cannot be reached.
    """
    only_async("send_event")
    _check(name, id)
    if _outside():
        return _ask(name, payload, id)
    return _send(name, _plain(payload), id)


def send_event_sync(name: str, payload: Any = None, *, id: str | None = None) -> str:  # noqa: A002 - the event's own word
    """Send an event from synchronous code; see :func:`send_event`."""
    only_sync("send_event")
    _check(name, id)
    if _outside():
        from windlass.client import Client

        return Client().send_event(name, payload, id=id).id
    return _send_sync(name, _plain(payload), id)


def wait_for_event(
    name: str,
    match: Any = None,
    timeout: str | timedelta | None = None,
    lookback: str | timedelta | None = None,
) -> Coroutine[Any, Any, Event]:
    """Wait for an event, for seconds or for months. No pod is held.

    One event ends one wait: in a loop, each gets the next one, in the order in which they were sent. What was sent
    before the wait but after the run's creation is kept and found.

    Args:
        name: Of the event.
        match: What its payload has to contain: of an object these fields, of an array these elements.
        timeout: How long to wait at most, such as ``"7d"``; None for as long as it takes.
        lookback: Take events too that were sent up to this long before the run's creation.

    Raises:
        WaitTimeoutError: None came within the timeout.
        StepError: Called in synchronous code (use :func:`wait_for_event_sync`), or inside a step.
        ValueError: The name is none, or a time is no duration.
        SerializationError: ``match`` is no JSON.
    """
    only_async(_NAME)
    return _wait(_begin(name, match, timeout, lookback))


def wait_for_event_sync(
    name: str,
    match: Any = None,
    timeout: str | timedelta | None = None,
    lookback: str | timedelta | None = None,
) -> Event:
    """Wait for an event in synchronous code; see :func:`wait_for_event`."""
    only_sync(_NAME)
    return _event(_begin(name, match, timeout, lookback).result_sync())


def _begin(name: str, match: Any, timeout: str | timedelta | None, lookback: str | timedelta | None) -> Pending:
    _check(name, None)
    wanted = encode(match, what="match")
    if len(wanted) > _MATCH_MAX:
        raise ValueError(
            f"A match of {len(wanted)} bytes: match what identifies the event, at most {_MATCH_MAX} bytes."
        )
    back = parse_duration(lookback) if lookback is not None else timedelta(0)
    detail = protocol.EventDetail(match=msgspec.Raw(wanted), lookback_ms=back.total_seconds() * 1000)
    return begin(
        _NAME,
        "event",
        arguments=[name, json.loads(wanted)],
        due_in=parse_duration(timeout) if timeout is not None else None,
        target=name,
        detail=detail,
    )


async def _wait(pending: Pending) -> Event:
    return _event(await pending.result())


def _event(step: protocol.Step) -> Event:
    found = msgspec.json.decode(step.result, type=protocol.Event)
    payload = json.loads(bytes(found.payload) or b"null")
    return Event(found.name, found.id, payload, datetime.fromisoformat(found.sent_at))


def _check(name: str, event_id: str | None) -> None:
    for what, text in (("name", name), ("id", event_id)):
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > protocol.EVENT_NAME_MAX or not _WORD.fullmatch(text):
            raise ValueError(
                f"{text!r} cannot be the {what} of an event: use 1 to {protocol.EVENT_NAME_MAX} characters, and no "
                "control characters."
            )


def _outside() -> bool:
    return active() is None and branches.current() is None


def _plain(payload: Any) -> Any:
    data = encode(payload, what="payload of the event")
    if len(data) > protocol.INLINE_LIMIT:
        raise ValueError(f"The payload of an event has {len(data)} bytes; {protocol.INLINE_LIMIT} is the most.")
    return json.loads(data)


async def _ask(name: str, payload: Any, event_id: str | None) -> str:
    import asyncio

    from windlass.client import Client

    sent = await asyncio.to_thread(lambda: Client().send_event(name, payload, id=event_id))
    return sent.id


def _request(name: str, payload: Any, event_id: str | None) -> tuple[Active, protocol.SendEventRequest]:
    """Return what a step sends: its id is that of run and step, so that a repeat after a crash is known as one."""
    attempt, branch = active(), branches.current()
    if attempt is None or branch is None:
        raise StepError("send_event() is called after the task function has ended.")
    derived = hashlib.sha256(f"{attempt.run.id}/{branch.inside_step}".encode()).hexdigest()[:32]
    body = msgspec.Raw(encode(payload, what="payload of the event"))
    return attempt, protocol.SendEventRequest(name=name, id=event_id or derived, payload=body)


async def _send_body(name: str, payload: Any, event_id: str | None) -> str:
    import asyncio

    attempt, request = _request(name, payload, event_id)
    return (await asyncio.to_thread(attempt.transport.send_event, request)).id


def _send_body_sync(name: str, payload: Any, event_id: str | None) -> str:
    attempt, request = _request(name, payload, event_id)
    return attempt.transport.send_event(request).id


_send: Final = step(name="send_event")(_send_body)
_send_sync: Final = step(name="send_event")(_send_body_sync)
