"""HTTP answers as servers and proxies write them, and as they break off."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from windlass.connection import Connection

_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRetry-After: 3\r\n\r\n{}"


@contextmanager
def _server(*pieces: bytes, close: bool = False) -> Iterator[tuple[Connection, list[bytes]]]:
    """Serve one connection: read a request, write the pieces one by one."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []
    done = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer:
            seen.append(peer.recv(65_536))
            for piece in pieces:
                peer.sendall(piece)
            if not close:
                done.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection("127.0.0.1", listener.getsockname()[1], timeout=10)
    try:
        yield connection, seen
    finally:
        done.set()
        connection.close()
        thread.join()
        listener.close()


def test_a_request_carries_host_headers_and_length() -> None:
    with _server(_GOOD) as (connection, seen):
        connection.call("POST", "/steps", "Authorization: Bearer t\r\n", b"{}")
        port = connection._socket.getpeername()[1]
    assert seen == [
        f"POST /steps HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Authorization: Bearer t\r\nContent-Length: 2\r\n\r\n{}".encode()
    ]


_CHUNKS = b"1;x=y\r\n{\r\n1\r\n}\r\n0\r\nTrailer: 1\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [_GOOD],
        [_GOOD[n : n + 1] for n in range(len(_GOOD))],
        [b"HTTP/1.1 100 Continue\r\n\r\n", _GOOD],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nretry-after: 3\r\n\r\n", _CHUNKS],
    ],
    ids=["whole", "byte by byte", "after an interim answer", "in chunks"],
)
def test_an_answer_is_the_same_however_it_arrives(pieces: list[bytes]) -> None:
    with _server(*pieces) as (connection, _):
        answer = connection.call("GET", "/", "")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (200, b"{}", "3")


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    with _server(b"HTTP/1.0 503 Busy\r\n\r\nlater", close=True) as (connection, _):
        answer = connection.call("GET", "/", "")
    assert (answer.status, answer.body, answer.headers["connection"]) == (503, b"later", "close")


def test_an_answer_without_a_body_is_not_waited_for() -> None:
    with _server(b"HTTP/1.1 204 No Content\r\n\r\n") as (connection, _):
        assert connection.call("POST", "/", "", b"").body == b""


def test_a_connection_serves_one_call_after_another() -> None:
    with _server(_GOOD + _GOOD) as (connection, _):
        assert [connection.call("GET", "/", "").body for _ in range(2)] == [b"{}", b"{}"]


def test_a_large_answer_is_read_whole() -> None:
    body = bytes(3_000_000)
    with _server(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n", body) as (connection, _):
        assert connection.call("GET", "/", "").body == body


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_a_broken_connection(piece: bytes) -> None:
    with _server(piece, close=True) as (connection, _), pytest.raises(ConnectionError):
        connection.call("GET", "/", "")
