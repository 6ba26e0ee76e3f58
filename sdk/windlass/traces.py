"""W3C trace context, and what joins the spans of user code to those of Windlass.

The control plane makes the spans of runs, attempts and steps from the ledger. Here are only their ids, and the context
under which user code makes its own. OpenTelemetry is never imported: it is used where the user's code has imported it.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FLUSH_MS: Final = 2000
"""How long the end of an attempt may wait for the user's own exporter."""


class TraceContext(NamedTuple):
    """A place in a trace: what the header ``traceparent`` carries.

    Attributes:
        trace_id: 32 hexadecimal digits, not all 0.
        span_id: 16 hexadecimal digits, not all 0: the span under which the next ones stand.
        sampled: Whether the trace is recorded.
    """

    trace_id: str
    span_id: str
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def under(self, span_id: str) -> "TraceContext":
        """Return the place of another span of the same trace."""
        return TraceContext(self.trace_id, span_id, self.sampled)


def parse(text: str | None) -> TraceContext | None:
    """Return the context that a ``traceparent`` names; None for one that is no such thing, which is to be ignored."""
    found = _FORM.fullmatch(text.strip()) if text is not None and len(text) < 512 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def step_span_id(attempt_id: str, key: str) -> str:
    """Return the span id of a step: the same in the pod, which runs it, and in the control plane, which exports it."""
    return hashlib.sha256(f"{attempt_id}/{key}".encode()).hexdigest()[:16]


def current() -> str | None:
    """Return the ``traceparent`` of the calling code: of its own span, if it uses OpenTelemetry, else of its run."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            return str(TraceContext(f"{span.trace_id:032x}", f"{span.span_id:016x}", bool(span.trace_flags & 1)))
    place = parse(os.environ.get("TRACEPARENT"))
    return None if place is None else str(place)


def attach(place: TraceContext) -> Callable[[], None]:
    """Make spans of the calling code children of this place until the answer is called.

    Does nothing where the code has not imported OpenTelemetry.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    context: Any = sys.modules.get("opentelemetry.context")
    if trace is None or context is None:
        return _nothing
    parent = trace.SpanContext(
        int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(place.sampled)
    )
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    return lambda: context.detach(token)


def flush() -> None:
    """Let the user's exporter send what it holds: the process ends without running exit handlers."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    force = getattr(trace.get_tracer_provider(), "force_flush", None) if trace is not None else None
    if force is not None:
        force(_FLUSH_MS)


def _nothing() -> None:
    """There is nothing to take back."""
