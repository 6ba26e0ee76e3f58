"""Process 1's calls, where something else than the API answers."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from windlass import protocol
from windlass_runner.api import ApiClient, Refused


class Server(ThreadingHTTPServer):
    """Gives the answers of a list, and counts connections."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.connections = 0


class Handler(BaseHTTPRequestHandler):
    """Answers as it is told."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_an_answer_of_something_else_is_no_refusal_and_its_connection_is_not_used_again(server: Server) -> None:
    server.answers = [(404, b""), (403, b"RBAC: access denied"), (200, b"{}")]
    client = ApiClient(f"http://127.0.0.1:{server.server_port}")
    assert client.call("/heartbeat", {}, patience=10) == b"{}"
    assert server.connections == 3
    client.close()


def test_a_refusal_of_the_api_itself_is_final(server: Server) -> None:
    server.answers = [(404, msgspec.json.encode(protocol.ErrorBody(code="NotFound", message="Not Found.")))]
    client = ApiClient(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(Refused, match="NotFound"):
        client.call("/heartbeat", {}, patience=10)
    client.close()
