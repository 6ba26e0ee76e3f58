"""How a running attempt reaches the API: one kept connection, every call idempotent, outages waited out."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from windlass import protocol
from windlass.connection import Connection
from windlass.errors import AttemptClosedError, ProtocolError, StepError

M = TypeVar("M")

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0


class Transport(Protocol):
    """What an attempt needs of the API."""

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        """Save steps; they are durable when this returns."""
        ...

    def load_steps(self, after: str) -> protocol.StepsPage:
        """Return finished steps after a cursor."""
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
        url: Of the API.
        token: The attempt's.
        give_up_after: How long an outage is waited out before the call fails.
    """

    def __init__(self, url: str, token: str, *, give_up_after: timedelta = timedelta(hours=24)) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port or 80
        self._headers = f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._patience = give_up_after.total_seconds()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._process = os.getpid()

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        """Save steps.

        Raises:
            AttemptClosedError: Another attempt may be running.
            ProtocolError: The API refused them.
        """
        body = msgspec.json.encode(protocol.SaveStepsRequest(steps=list(steps)))
        self._call("POST", "/steps", body)

    def load_steps(self, after: str) -> protocol.StepsPage:
        """Return finished steps after a cursor."""
        return msgspec.json.decode(self._call("GET", f"/steps?after={after}", None), type=protocol.StepsPage)

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        """Store a large value under its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self._call("PUT", f"/blobs/{digest}", data)
        return protocol.BlobRef(sha256=digest, size=len(data))

    def get_blob(self, ref: protocol.BlobRef) -> bytes:
        """Return a large value."""
        return self._call("GET", f"/blobs/{ref.sha256}", None)

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        if os.getpid() != self._process:
            raise StepError(
                "This process is a forked copy of the run's own: it has no connection and no place in the run. "
                "Call steps in the process that runs the task."
            )
        until = time.monotonic() + self._patience
        failures = 0
        with self._lock:
            while True:
                fresh = self._connection is None
                try:
                    status, data, retry_after = self._send(method, path, body)
                except OSError:
                    self._close()
                    if not fresh:
                        continue  # a kept connection that the server had closed: no failure, just old
                    status, data, retry_after = 503, b"", None
                if status < 300:
                    return data
                if status not in _PASSING:
                    raise _refusal(status, data)
                failures += 1
                if time.monotonic() > until:
                    raise ProtocolError("ApiUnreachable", f"The API did not answer for {self._patience:.0f} s.")
                ceiling = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
                time.sleep(max(random.uniform(0, ceiling), retry_after or 0))  # noqa: S311 - jitter

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes, float | None]:
        if self._connection is None:
            self._connection = Connection(self._host, self._port, timeout=60)
        answer = self._connection.call(method, protocol.PREFIX + path, self._headers, body)
        if answer.headers.get("connection", "").lower() == "close":
            self._close()
        after = answer.headers.get("retry-after", "")
        return answer.status, answer.body, min(float(after), 30.0) if after.isdecimal() else None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _refusal(status: int, data: bytes) -> BaseException:
    try:
        body = msgspec.json.decode(data, type=protocol.ErrorBody)
    except msgspec.DecodeError:
        body = protocol.ErrorBody(code=f"Http{status}", message=data[:200].decode(errors="replace"))
    if status == 409 and body.code == protocol.AttemptClosed:
        return AttemptClosedError(body.message)
    return ProtocolError(body.code, body.message)
