"""How an attempt reaches the API: against a server that answers, refuses, breaks off and comes back as it is told."""

import hashlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from windlass import protocol, transport
from windlass.errors import AttemptClosedError, ProtocolError, ValueTooLargeError
from windlass.log import logger
from windlass.transport import HttpTransport

Reply = tuple[int, bytes, dict[str, str]] | None
"""Status, body, headers; None breaks the connection off."""

OK: Reply = (200, b"{}", {})


def refusal(status: int, code: str, message: str = "no", **headers: str) -> Reply:
    body = msgspec.json.encode(protocol.ErrorBody(code=code, message=message))
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}


class Api:
    """A server with a list of replies; the last one is given for ever."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [OK]
        self.seen: list[tuple[str, str, bytes, str | None]] = []
        self.connections = 0
        self.clients: list[HttpTransport] = []
        self.hold: Callable[[], Any] = lambda: None
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: apart, the second waits for an acknowledgement

            def setup(self) -> None:
                super().setup()
                api.connections += 1

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                api.seen.append((self.command, self.path, body, self.headers.get("Authorization")))
                reply = api.replies.pop(0) if len(api.replies) > 1 else api.replies[0]
                api.hold()
                if reply is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(reply[0])
                for name, value in {"Content-Length": str(len(reply[1])), **reply[2]}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply[1])

            do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def client(self, *, patience: float = 60, path: str = "") -> HttpTransport:
        self.clients.append(HttpTransport(self.url + path, "a.secret", give_up_after=timedelta(seconds=patience)))
        return self.clients[-1]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(transport, "_LONGEST_PAUSE", 0.001)
    made = Api()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    for client in made.clients:
        client.close()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def a_step(key: str = "pay", text: bytes = b"1") -> protocol.Step:
    return protocol.Step(key=key, name="pay", args_hash="h", state="succeeded", result=msgspec.Raw(text))


def test_steps_are_posted_with_the_attempts_token_over_one_connection(api: Api) -> None:
    client = api.client(path="/windlass/")
    for _ in range(3):
        client.save_steps([a_step()])
    assert api.connections == 1
    method, path, body, credential = api.seen[0]
    assert (method, path, credential) == ("POST", "/windlass/runtime/v1/steps", "Bearer a.secret")
    assert msgspec.json.decode(body, type=protocol.SaveStepsRequest).steps == [a_step()]


@pytest.mark.parametrize("url", ["https://api", "api:8080", "", "http://", "/path"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ProtocolError, match=r"NotConfigured: WINDLASS_URL is .* must begin with http://"):
        HttpTransport(url, "t")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_outage_is_waited_out(api: Api, status: int) -> None:
    api.replies = [refusal(status, "Unavailable"), None, (status, b"<html>", {}), OK]
    api.client().save_steps([a_step()])
    assert [body for _, _, body, _ in api.seen] == [api.seen[0][2]] * 4


@pytest.mark.parametrize("answer", [(404, b""), (404, b"<html>nothing here"), (403, b"RBAC: denied"), (401, b"\xff")])
def test_what_another_server_answers_in_the_apis_place_is_waited_out_on_a_new_connection(
    api: Api, answer: tuple[int, bytes]
) -> None:
    api.replies = [(*answer, {}), OK]
    api.client().save_steps([a_step()])
    assert (len(api.seen), api.connections) == (2, 2)


def test_the_servers_own_pause_is_kept_up_to_half_a_minute(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    client = api.client()
    monkeypatch.setattr("windlass.transport.time.sleep", pauses.append)
    api.replies = [refusal(503, "Unavailable", Retry_After=text) for text in ("7", "3600", "soon")] + [OK]
    client.save_steps([a_step()])
    assert pauses[0] == 7
    assert pauses[1] == 30
    assert pauses[2] < 1


def test_an_outage_longer_than_the_patience_fails_with_code_and_cause(api: Api) -> None:
    api.replies = [refusal(503, "LedgerUnavailable", "PostgreSQL is away")]
    with pytest.raises(ProtocolError) as caught:
        api.client(patience=0).save_steps([a_step()])
    assert caught.value.code == "ApiUnreachable"
    assert "POST /steps for 0ms: LedgerUnavailable: PostgreSQL is away" in caught.value.message


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client = HttpTransport(f"http://127.0.0.1:{port}", "t", give_up_after=timedelta(0))
    with pytest.raises(ProtocolError, match=r"ApiUnreachable: .*Connection refused"):
        client.load_steps("")


def test_a_kept_connection_that_the_server_closed_is_no_failure(api: Api) -> None:
    client = api.client(patience=0)
    client.save_steps([a_step()])
    api.replies = [None, OK]
    client.save_steps([a_step()])
    assert api.connections == 2


def test_a_connection_that_the_server_ends_is_not_used_again(api: Api) -> None:
    client = api.client(patience=0)
    api.replies = [(200, b"{}", {"Connection": "close"}), OK]
    client.save_steps([a_step()])
    client.save_steps([a_step()])
    assert api.connections == 2


def test_a_long_outage_is_told_in_the_runs_log_once(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.replies = [refusal(503, "Unavailable", "starting")] * 20 + [OK]
    with caplog.at_level(logging.WARNING, logger=logger.name):
        api.client().save_steps([a_step()])
    assert [r.getMessage() for r in caplog.records] == [
        "The Windlass API cannot be used at the moment (Unavailable: starting). The run waits, and nothing is lost."
    ]


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (refusal(409, "AttemptClosed", "closed"), AttemptClosedError, "closed"),
        (refusal(409, "Conflict", "other"), ProtocolError, "Conflict: other"),
        (refusal(400, "RequestInvalid", "bad"), ProtocolError, "RequestInvalid: bad"),
        (refusal(404, "RunNotFound", "no run"), ProtocolError, "RunNotFound: no run"),
        ((413, b"<html>too large", {}), ProtocolError, "Http413: <html>too large"),
        ((400, b"\xff", {}), ProtocolError, "Http400: "),
    ],
)
def test_a_refusal_is_told_at_once_with_its_code(api: Api, reply: Reply, kind: type[BaseException], said: str) -> None:
    api.replies = [reply]
    with pytest.raises(kind, match=said):
        api.client().save_steps([a_step()])
    assert len(api.seen) == 1


def test_a_crowd_of_steps_is_divided_below_the_limit_of_a_body(api: Api) -> None:
    crowd = [a_step(f"pay#{n}", b'"' + b"x" * 60_000 + b'"') for n in range(200)]
    api.client().save_steps(crowd)
    assert len(api.seen) > 1
    assert max(len(body) for _, _, body, _ in api.seen) < protocol.BODY_LIMIT
    arrived = [s for _, _, body, _ in api.seen for s in msgspec.json.decode(body, type=protocol.SaveStepsRequest).steps]
    assert [s.key for s in arrived] == [s.key for s in crowd]


def test_a_large_value_is_put_under_its_digest_and_got_back(api: Api) -> None:
    client = api.client()
    ref = client.put_blob(b'"large"')
    assert ref == protocol.BlobRef(sha256=hashlib.sha256(b'"large"').hexdigest(), size=7)
    assert api.seen[-1][:3] == ("PUT", f"/runtime/v1/blobs/{ref.sha256}", b'"large"')
    api.replies = [(200, b'"large"', {})]
    assert client.get_blob(ref) == b'"large"'


def test_a_value_that_the_store_does_not_take_is_too_large(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.replies = [refusal(413, "PayloadTooLarge", "The limit here is 8 MiB.")]
    with pytest.raises(ValueTooLargeError, match=r"^The limit here is 8 MiB\.$"):
        api.client().put_blob(b"1")
    monkeypatch.setattr(protocol, "BLOB_LIMIT", 3)
    api.seen.clear()
    with pytest.raises(ValueTooLargeError, match="The value has 4 bytes, and 3 is the most"):
        api.client().put_blob(b"1234")
    assert not api.seen


def test_a_cursor_is_sent_as_it_was_given(api: Api) -> None:
    api.replies = [(200, msgspec.json.encode(protocol.StepsPage(steps=[a_step()], next_steps="b")), {})]
    page = api.client().load_steps("a/b&c=d e")
    assert api.seen[0][1] == "/runtime/v1/steps?after=a%2Fb%26c%3Dd%20e"
    assert (page.steps, page.next_steps) == ([a_step()], "b")


class Alarm(Exception):  # noqa: N818 - raised by the user's signal handler
    """Not an OSError."""


def test_an_answer_that_was_not_waited_for_is_never_anothers(api: Api) -> None:
    """User code may raise from a signal handler of its own, in the middle of a call."""
    asked, release = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        assert release.wait(10)

    def ring() -> None:
        assert asked.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def raise_alarm(*_: Any) -> None:
        raise Alarm

    client = api.client()
    client.save_steps([a_step()])
    api.replies, api.hold = [(200, b'"first"', {}), (200, b'"second"', {})], hold
    before = signal.signal(signal.SIGALRM, raise_alarm)
    ringer = threading.Thread(target=ring)
    ringer.start()
    try:
        with pytest.raises(Alarm):
            client.get_blob(protocol.BlobRef(sha256="1", size=1))
    finally:
        signal.signal(signal.SIGALRM, before)
        release.set()
        ringer.join()
    assert client.get_blob(protocol.BlobRef(sha256="2", size=1)) == b'"second"'


def test_calls_of_several_threads_wait_for_each_other(api: Api) -> None:
    client = api.client()
    threads = [threading.Thread(target=client.save_steps, args=([a_step(f"k{n}")],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(api.seen), api.connections) == (16, 1)
