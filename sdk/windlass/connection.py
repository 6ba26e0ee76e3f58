"""HTTP/1.1 on one kept socket: the little that the runtime protocol needs.

``http.client`` parses headers as e-mail: 0.25 ms a call and 30 ms of every start, where a durable step as a whole is to
take 1.2 ms (ADR 0015). No redirects, cookies or proxies; and no TLS, for the API is a Service of the cluster.
"""

import socket
from typing import Final, NamedTuple

_HEAD_LIMIT: Final = 65_536
_ONE_SEND: Final = 65_536
_HEX: Final = b"0123456789abcdefABCDEF"


class Answer(NamedTuple):
    """A response: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection to one server. Not safe for threads.

    After any error it must be closed: where in the stream it stands is not known then.

    Args:
        host: Name or address.
        port: Port.
        timeout: Seconds that connecting, and each wait for bytes, may take.

    Raises:
        OSError: The server cannot be reached.
    """

    def __init__(self, host: str, port: int, *, timeout: float) -> None:
        self._host = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self._socket = socket.create_connection((host, port), timeout)
        # Without it a small request waits for the acknowledgement of the one before.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def call(self, method: str, path: str, headers: str, body: bytes | None = None) -> Answer:
        """Send a request and return its answer; see :meth:`send` and :meth:`receive`."""
        self.send(method, path, headers, body)
        return self.receive()

    def send(self, method: str, path: str, headers: str, body: bytes | None = None) -> None:
        """Send a request. Its answer must be received before the next one is sent.

        Args:
            method: Such as ``POST``.
            path: With query, percent-encoded.
            headers: Whole lines, each ended by CR LF, without Host and Content-Length.
            body: None for a request without one.

        Raises:
            OSError: The connection broke or timed out.
        """
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (
            method.encode(),
            path.encode(),
            self._host,
            headers.encode("latin-1"),
            length.encode(),
        )
        body = body or b""
        if len(body) <= _ONE_SEND:
            self._socket.sendall(head + body)
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)

    def receive(self) -> Answer:
        """Return the answer.

        Raises:
            OSError: The connection broke or timed out, or what came is not HTTP.
        """
        status, headers = self._head()
        while 100 <= status < 200:  # interim: the answer follows
            status, headers = self._head()
        if status in (204, 304):
            return Answer(status, headers, b"")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return Answer(status, headers, self._chunks())
        length = headers.get("content-length")
        if length is None:
            headers["connection"] = "close"
            return Answer(status, headers, self._rest())
        if not (length.isascii() and length.isdigit()):
            raise ConnectionError(f"Content-Length is {length[:40]!r}")
        return Answer(status, headers, self._exactly(int(length)))

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise ConnectionError("the head of the answer is too long")
            self._receive()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
            raise ConnectionError(f"the answer is not HTTP: {lines[0][:80]!r}")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return int(code), headers

    def _receive(self) -> None:
        data = self._socket.recv(_HEAD_LIMIT)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data

    def _exactly(self, size: int) -> bytes:
        if len(self._buffer) < size:
            parts, have = [self._buffer], len(self._buffer)
            while have < size:
                data = self._socket.recv(min(size - have, 1 << 20))
                if not data:
                    raise ConnectionError("the server closed the connection in the middle of an answer")
                parts.append(data)
                have += len(data)
            self._buffer = b"".join(parts)
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise ConnectionError("a line of the answer is too long")
            self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = self._line().partition(b";")[0].strip()
            if not size or size.strip(_HEX):  # int() would take a sign, too
                raise ConnectionError(f"a chunk's size is {size[:40]!r}")
            count = int(size, 16)
            if count == 0:
                while self._line():  # trailers
                    pass
                return b"".join(parts)
            parts.append(self._exactly(count))
            if self._line():
                raise ConnectionError("a chunk is longer than announced")

    def _rest(self) -> bytes:
        parts = [self._buffer]
        self._buffer = b""
        while data := self._socket.recv(1 << 20):
            parts.append(data)
        return b"".join(parts)
