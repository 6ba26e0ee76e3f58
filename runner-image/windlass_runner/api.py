"""Process 1's calls to the API: one kept connection for each owner, each call idempotent."""

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from windlass import protocol
from windlass.connection import Connection
from windlass.protocol import PREFIX, ErrorBody


class Refused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The API answered with an error that a repeat does not change.

    Attributes:
        status: HTTP status.
        code: Stable code of the answer.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code


class Unreachable(Exception):  # noqa: N818 - as above
    """No usable answer within the time given."""


class ApiClient:
    """One connection; used by one thread.

    Attributes:
        repeated: Whether the last call was sent more than once: the answer to an earlier try may be lost.
    """

    def __init__(self, url: str) -> None:
        self.repeated = False
        self._host, self._port = address_of(url)
        self._connection: Connection | None = None

    def call(
        self,
        path: str,
        body: Any,
        *,
        token: str | None = None,
        patience: float,
        timeout: float = 30.0,
        retry_codes: frozenset[str] = frozenset(),
        sent: Callable[[], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bytes:
        """POST a message and return the answer's body; try again with full jitter for ``patience`` seconds.

        Raises:
            Refused: The API's answer is final.
            Unreachable: No usable answer in time, or ``stop`` said so between two tries.
        """
        data = msgspec.json.encode(body)
        until = time.monotonic() + patience
        failures = 0
        self.repeated = False
        while True:
            fresh = self._connection is None
            try:
                status, answer = self._send(path, data, token, timeout, sent)
            except OSError as error:
                self.close()
                self.repeated = True
                if not fresh and not isinstance(error, TimeoutError):
                    continue  # the server had closed a kept connection
                status, answer, why = 0, b"", str(error)
            else:
                if status < 300:
                    return answer
                refused = _refused(status, answer)
                why = str(refused)
                if protocol.is_anothers(status, answer):
                    self.close()  # this connection would lead to the same again
                elif status not in (408, 429, 499) and status < 500 and refused.code not in retry_codes:
                    raise refused
            failures += 1
            self.repeated = True
            if time.monotonic() >= until or stop():
                raise Unreachable(f"{path}: {why or status}")
            time.sleep(random.uniform(0.01, min(0.05 * 2 ** min(failures, 8), 5.0)))  # noqa: S311 - jitter

    def _send(
        self, path: str, data: bytes, token: str | None, timeout: float, sent: Callable[[], None] | None
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = Connection(self._host, self._port, timeout=timeout)
        headers = "Content-Type: application/json\r\n"
        if token is not None:
            headers += f"Authorization: Bearer {token}\r\n"
        self._connection.send("POST", PREFIX + path, headers, data)
        if sent is not None:
            sent()
        answer = self._connection.receive()
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer.status, answer.body

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of ``http://host:port``: the operator sets it, so urllib's 5 ms of imports are saved."""
    host, colon, port = url.partition("://")[2].partition("/")[0].rpartition(":")
    if not colon or port.endswith("]"):  # no port; a colon may be that of an address in brackets
        host, port = host + colon + port, ""
    return host.strip("[]") or "localhost", int(port or 80)


def _refused(status: int, answer: bytes) -> Refused:
    try:
        body = msgspec.json.decode(answer, type=ErrorBody)
    except msgspec.DecodeError:
        return Refused(status, f"Http{status}", answer[:200].decode(errors="replace"))
    return Refused(status, body.code, body.message)
