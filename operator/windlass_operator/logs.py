"""Structured logs of operator and API: one JSON object a line in a pod, a readable line in a terminal.

Whose line it is stands in the keys ``namespace``, ``task``, ``run`` and ``attempt``: bound where a request or an event
comes in, or said by the line itself. What must never be written is taken out here, whoever wrote it: payloads and
results by their key, credentials by their form, in our lines as in those of libraries and in tracebacks.
"""

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, TextIO

import structlog

REDACTED: Final = "[redacted]"
_KEYS: Final = frozenset(
    ("authorization", "credential", "password", "payload", "result", "secret", "source", "token", "uri")
)
_FORMS: Final = (
    (re.compile(r"(postgres(?:ql)?://[^:/@\s]*):[^@\s]*@"), rf"\1:{REDACTED}@"),
    (re.compile(r"(?i)\b(password|passfile|sslpassword)=('[^']*'|\S+)"), rf"\1={REDACTED}"),
    (re.compile(r"(?i)\bbearer\s+[\w.~+/=-]+"), f"Bearer {REDACTED}"),
    (re.compile(r"\bwlr_[\w-]+"), REDACTED),  # the runner credential of a namespace
    (
        re.compile(r"\b([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[\w-]{32,43}\b"),
        rf"\1.{REDACTED}",
    ),  # of an attempt; of a callback
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), REDACTED),  # a service account's
)

Event = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]

request_headers: Final[ContextVar[Headers]] = ContextVar("request_headers", default=())
"""Of the runtime request that is being served. Read only when a line is written: most requests write none."""


def configure(level: str, *, style: str = "", stream: TextIO | None = None) -> None:
    """Write logs of ours and of libraries to standard output.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``. Libraries say only what is at least a warning.
        style: ``json`` or ``console``; empty: console in a terminal, JSON elsewhere.
        stream: Where to; standard output by default.
    """
    stream = stream or sys.stdout
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    console = style == "console" or (not style and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        name_attempt,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        scrub,
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(timestamp_key="time")]
        if console
        else [structlog.processors.EventRenamer("message", "_event"), structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], structlog.stdlib.ExtraAdder(allow=()), _logger_name, scrub],
            processors=[remove, *last],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def name_attempt(_: Any, __: str, event: Event) -> Event:
    """Say whose request it is: the id of the attempt is the first half of its token."""
    if "attempt" not in event:
        credential = next((value for name, value in request_headers.get() if name == b"authorization"), b"")
        attempt_id, point, _ = credential[7:].decode("latin-1").partition(".")
        if point and len(attempt_id) == 36:  # a UUID; a credential without a point is a secret as a whole
            event["attempt"] = attempt_id
    return event


def scrub(_: Any, __: str, event: Event) -> Event:
    """Take out of a line what must not be in it."""
    for key, value in event.items():
        event[key] = _clean(key, value)
    return event


def _clean(key: object, value: Any) -> Any:
    if key in _KEYS:
        return REDACTED
    if isinstance(value, dict):
        return {inner: _clean(inner, item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(None, item) for item in value]
    if isinstance(value, str | bytes | BaseException):
        return _without_credentials(str(value))
    return value


def _without_credentials(text: str) -> str:
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def _logger_name(logger: Any, _: str, event: Event) -> Event:
    record = event.get("_record")
    event["logger"] = record.name if record is not None else getattr(logger, "name", "")
    return event
