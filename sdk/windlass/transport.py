"""How a running attempt reaches the API: one kept connection, every call idempotent, outages waited out."""

import contextlib
import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from windlass import protocol
from windlass.connection import Connection
from windlass.durations import format_duration
from windlass.errors import AttemptClosedError, ProtocolError, StepError, ValueTooLargeError

M = TypeVar("M")

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_A_DAY: Final = timedelta(hours=24)
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_SAID_AFTER: Final = 6
"""Failures in a row, some seconds, after which the run's log says why nothing goes on."""
_FULL_BODY: Final = protocol.BODY_LIMIT // 2
"""Bytes at which a request for many steps is closed and another begun; one more step always fits below the limit."""


class Transport(Protocol):
    """What an attempt needs of the API."""

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        """Save steps; they are durable when this returns."""
        ...

    def load_steps(self, after: str) -> protocol.StepsPage:
        """Return finished steps after a cursor."""
        ...

    def pod_is_protected(self) -> bool:
        """Return whether the cluster has been told of this attempt's protected steps."""
        ...

    def begin_waits(self, waits: Sequence[protocol.Wait], keys: Sequence[str]) -> list[protocol.Step]:
        """Begin durable waits; return those of them, and of the ones named by key, that are over."""
        ...

    def suspend(
        self, waits: Sequence[str], groups: Sequence[Sequence[str]], together: Sequence[Sequence[str]] = ()
    ) -> protocol.SuspendAnswer:
        """End the attempt, whose code waits for one of these or for the last of a group."""
        ...

    def load_compensations(self) -> protocol.CompensationsPage:
        """Return what is left to undo."""
        ...

    def save_checkpoint(self, request: protocol.CheckpointRequest) -> None:
        """Save the state of a long loop; it is durable when this returns."""
        ...

    def extend_timeout(self, request: protocol.ExtendRequest) -> None:
        """Add running time; the limits are longer when this returns."""
        ...

    def send_event(self, request: protocol.SendEventRequest) -> protocol.EventAccepted:
        """Send an event, which is durable when this returns."""
        ...

    def create_token(self, request: protocol.CreateTokenRequest) -> protocol.TokenCreated:
        """Make the token of a step, or return the one that it has."""
        ...

    def start_children(self, children: Sequence[protocol.Child]) -> list[str]:
        """Start runs, and return their ids; ones that were started before are the same."""
        ...

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        """Store a large value."""
        ...

    def get_blob(self, ref: protocol.BlobRef) -> bytes:
        """Return a large value."""
        ...


class HttpTransport:
    """The transport of a real attempt. Safe for threads: calls wait for each other.

    Args:
        url: Of the API, as its Service inside the cluster has it: ``http://``, with a path if it stands behind one.
        token: The attempt's.
        give_up_after: How long an outage is waited out before the call fails.
        idle: Open connections of this process that nobody uses, for attempts that share them: each call takes one and
            puts it back. None: the connection is this transport's own.

    Raises:
        ProtocolError: The address is none.
    """

    def __init__(
        self, url: str, token: str, *, give_up_after: timedelta = _A_DAY, idle: "deque[Connection] | None" = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ProtocolError("NotConfigured", f"WINDLASS_URL is {url!r}; it must begin with http://.")
        self._host, self._port = parts.hostname, parts.port or 80
        self._prefix = parts.path.rstrip("/") + protocol.PREFIX
        self._headers = f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._give_up_after = give_up_after
        self._idle = idle
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process = os.getpid()

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        """Save steps.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused them.
        """
        for body in _bodies("steps", steps):
            self._call("POST", "/steps", body)

    def load_steps(self, after: str) -> protocol.StepsPage:
        """Return finished steps after a cursor."""
        page = self._call("GET", f"/steps?after={quote(after, safe='')}", None)
        return msgspec.json.decode(page, type=protocol.StepsPage)

    def pod_is_protected(self) -> bool:
        """Return whether the cluster has been told of this attempt's protected steps."""
        return msgspec.json.decode(self._call("GET", "/protection", None), type=protocol.Protection).on_pod

    def begin_waits(self, waits: Sequence[protocol.Wait], keys: Sequence[str]) -> list[protocol.Step]:
        """Begin durable waits; return those that are over.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused them.
        """
        request = protocol.WaitsRequest(waits=list(waits), keys=list(keys))
        answer = self._call("POST", "/waits", msgspec.json.encode(request))
        return msgspec.json.decode(answer, type=protocol.WaitsAnswer).over

    def suspend(
        self, waits: Sequence[str], groups: Sequence[Sequence[str]], together: Sequence[Sequence[str]] = ()
    ) -> protocol.SuspendAnswer:
        """End the attempt of code that only waits."""
        request = protocol.SuspendRequest(
            waits=list(waits),
            groups=[list(group) for group in groups],
            together=[list(group) for group in together],
        )
        return msgspec.json.decode(
            self._call("POST", "/suspend", msgspec.json.encode(request)), type=protocol.SuspendAnswer
        )

    def load_compensations(self) -> protocol.CompensationsPage:
        """Return what is left to undo of a run that will not succeed."""
        return msgspec.json.decode(self._call("GET", "/compensations", None), type=protocol.CompensationsPage)

    def save_checkpoint(self, request: protocol.CheckpointRequest) -> None:
        """Save the state of a long loop."""
        self._call("POST", "/checkpoint", msgspec.json.encode(request))

    def extend_timeout(self, request: protocol.ExtendRequest) -> None:
        """Add running time."""
        self._call("POST", "/extend", msgspec.json.encode(request))

    def send_event(self, request: protocol.SendEventRequest) -> protocol.EventAccepted:
        """Send an event; a repeat with the same id changes nothing.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused it.
        """
        answer = self._call("POST", "/events", msgspec.json.encode(request))
        return msgspec.json.decode(answer, type=protocol.EventAccepted)

    def create_token(self, request: protocol.CreateTokenRequest) -> protocol.TokenCreated:
        """Make the token of a step, or return the one that it has.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused it.
        """
        answer = self._call("POST", "/tokens", msgspec.json.encode(request))
        return msgspec.json.decode(answer, type=protocol.TokenCreated)

    def start_children(self, children: Sequence[protocol.Child]) -> list[str]:
        """Start runs.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused one of them, and therefore all of a request.
        """
        ids: list[str] = []
        for body in _bodies("children", children):
            answer = self._call("POST", "/children", body)
            ids += msgspec.json.decode(answer, type=protocol.ChildrenAnswer).run_ids
        return ids

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        """Store a large value under its digest.

        Raises:
            ValueTooLargeError: Nothing keeps so large a value, or the installation does not.
        """
        if len(data) > protocol.BLOB_LIMIT:
            raise ValueTooLargeError(
                f"The value has {len(data)} bytes, and {protocol.BLOB_LIMIT} is the most. "
                "Store it yourself and pass its address."
            )
        digest = hashlib.sha256(data).hexdigest()
        try:
            self._call("PUT", f"/blobs/{digest}", data)
        except ProtocolError as error:
            if error.code == "PayloadTooLarge":
                raise ValueTooLargeError(error.message) from None
            raise
        return protocol.BlobRef(sha256=digest, size=len(data))

    def get_blob(self, ref: protocol.BlobRef) -> bytes:
        """Return a large value."""
        return self._call("GET", f"/blobs/{ref.sha256}", None)

    def close(self) -> None:
        """Close the connection, between two calls. The next one opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        self._refuse_copies()
        with self._lock:
            if self._idle is None:
                return self._call_until_served(method, path, body)
            with contextlib.suppress(IndexError):
                self._connection = self._idle.pop()
            try:
                return self._call_until_served(method, path, body)
            finally:
                if self._connection is not None:
                    self._idle.append(self._connection)
                    self._connection = None

    def _call_until_served(self, method: str, path: str, body: bytes | None) -> bytes:
        until = time.monotonic() + self._give_up_after.total_seconds()
        failures = 0
        while True:
            fresh = self._connection is None
            try:
                status, data, retry_after = self._send(method, path, body)
            except OSError as error:
                self.close()
                if not fresh and not isinstance(error, TimeoutError):
                    continue  # a kept connection that the server had closed: no failure, just old
                why, retry_after = str(error) or type(error).__name__, None
            except BaseException:  # from a signal handler of the user's: the answer would be read by the next call
                self.close()
                raise
            else:
                if status < 300:
                    return data
                why = self._why_again(status, data)
            failures += 1
            if time.monotonic() >= until:
                lasted = format_duration(self._give_up_after)
                raise ProtocolError("ApiUnreachable", f"The API did not serve {method} {path} for {lasted}: {why}")
            if failures == _SAID_AFTER:
                _say(why)
            # Bounded: 2**1024 is no float any more, and a long outage has that many failures.
            ceiling = min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE)
            time.sleep(max(random.uniform(0, ceiling), retry_after or 0))  # noqa: S311 - jitter

    def _why_again(self, status: int, data: bytes) -> str:
        """Return why a refused call is to be repeated, or raise what the refusal means."""
        refusal = _refusal(status, data)
        if protocol.is_anothers(status, data):
            self.close()  # this connection would lead to the same again
        elif status not in _PASSING:
            raise refusal
        return str(refusal)

    def _refuse_copies(self) -> None:
        if os.getpid() != self._process:  # two processes on one connection would read each other's answers
            raise StepError(
                "This process is a forked copy of the run's own: it has no connection and no place in the run. "
                "Call steps in the process that runs the task."
            )

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes, float | None]:
        if self._connection is None:
            self._connection = Connection(self._host, self._port, timeout=60)
        answer = self._connection.call(method, self._prefix + path, self._headers, body)
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        after = answer.headers.get("retry-after", "")
        return answer.status, answer.body, min(float(after), 30.0) if after.isdecimal() else None


def _say(why: str) -> None:
    from windlass.log import logger  # late: most attempts never meet an outage

    logger.warning("The Windlass API cannot be used at the moment (%s). The run waits, and nothing is lost.", why)


def _bodies(name: str, items: Sequence[protocol.Message]) -> Iterator[bytes]:
    """Divide items over as many requests as the limit of a body asks for: a crowd of them together may exceed it."""
    head = b'{"%s":[' % name.encode()
    parts: list[bytes] = []
    size = 0
    for item in items:
        part = msgspec.json.encode(item)
        if parts and size + len(part) > _FULL_BODY:
            yield head + b",".join(parts) + b"]}"
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    if parts:
        yield head + b",".join(parts) + b"]}"


def _refusal(status: int, data: bytes) -> BaseException:
    try:
        body = msgspec.json.decode(data, type=protocol.ErrorBody)
    except msgspec.DecodeError:
        body = protocol.ErrorBody(code=f"Http{status}", message=data[:200].decode(errors="replace"))
    if status == 409 and body.code == protocol.AttemptClosed:
        return AttemptClosedError(body.message)
    return ProtocolError(body.code, body.message, body.field)
