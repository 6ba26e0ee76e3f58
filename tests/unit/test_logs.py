"""Log lines of operator and API: one JSON object each, with the ids of run and attempt, and nothing secret in it."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from windlass_operator import logs

ATTEMPT = "01890a5d-ac96-774b-bcce-b302099a8057"
SECRETS = {
    "postgres": "postgresql://windlass:hunter2-pw@db:5432/x",
    "dsn": "host=db password=hunter2-pw user=x",
    "bearer": "Authorization: Bearer hunter2-pw-abc",
    "runner": "wlr_hunter2-pw",
    "attempt": f"{ATTEMPT}.hunter2-pw_{'a' * 21}",
    "callback": f"POST http://windlass/callbacks/v1/{ATTEMPT}.hunter2-pw_{'a' * 32} failed",
    "account": "eyJhbGciOiJIUzI1NiJ9.eyJodW50ZXIyLXB3.hunter2-pw",
}


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    found = io.StringIO()
    logs.configure("debug", stream=found)
    yield found
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object(stream: io.StringIO) -> None:
    structlog.get_logger().info("attempt ended", run="r-1", attempt="a-1", why="two\nlines")
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"message": "attempt ended", "level": "info", "run": "r-1", "attempt": "a-1", "why": "two\nlines"}


def test_the_lines_of_a_request_and_of_libraries_in_it_name_the_attempt(stream: io.StringIO) -> None:
    token = logs.request_headers.set([(b"host", b"x"), (b"authorization", f"Bearer {ATTEMPT}.{'s' * 32}".encode())])
    try:
        structlog.get_logger().warning("ours")
        logging.getLogger("psycopg.pool").warning("theirs")
    finally:
        logs.request_headers.reset(token)
    structlog.get_logger().warning("later")
    assert [line.get("attempt") for line in lines(stream)] == [ATTEMPT, ATTEMPT, None]
    assert lines(stream)[1]["logger"] == "psycopg.pool"


@pytest.mark.parametrize("credential", [b"Bearer wlr_" + b"x" * 32, b"Bearer", b"", b"Bearer \xff\xfe.x", b"Basic a.b"])
def test_another_credential_names_no_attempt(credential: bytes, stream: io.StringIO) -> None:
    token = logs.request_headers.set([(b"authorization", credential)])
    try:
        structlog.get_logger().warning("a line")
    finally:
        logs.request_headers.reset(token)
    assert "attempt" not in lines(stream)[0]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_no_credential_is_written_by_anybody(secret: str, stream: io.StringIO) -> None:
    log = structlog.get_logger()
    log.info("connecting", to=f"to {secret}", nested={"deep": [secret]}, error=ValueError(secret))
    logging.getLogger("library").warning("failed: %s", secret)
    error = RuntimeError(secret)
    log.error("unexpected", exc_info=error)
    logging.getLogger("library").error("unexpected", exc_info=error)
    assert len(lines(stream)) == 4
    assert "hunter2-pw" not in stream.getvalue()


def test_payloads_and_results_are_taken_out_by_their_key(stream: io.StringIO) -> None:
    structlog.get_logger().info("run", payload={"card": "4111"}, inner={"result": "4111"}, task="order")
    assert "4111" not in stream.getvalue()
    assert lines(stream)[0]["task"] == "order"


def test_what_json_cannot_say_is_no_reason_to_lose_a_line(stream: io.StringIO) -> None:
    structlog.get_logger().info("odd", value=object, number=float("nan"), text="\udc80")
    assert "odd" in stream.getvalue()


def test_a_terminal_gets_readable_lines() -> None:
    found = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logs.configure("info", style="console", stream=found)
        structlog.get_logger().info("schema is current", applied=3)
    finally:
        structlog.reset_defaults()
        root.handlers[:], root.level = before
    assert "schema is current" in found.getvalue()
    assert not found.getvalue().startswith("{")
