"""Sends finished spans to an OpenTelemetry receiver, by OTLP over HTTP.

Import this module only where an endpoint is configured: SDK and exporter cost 0.2 s of CPU. Where to send, headers,
compression and time limits are the exporter's own variables, ``OTEL_EXPORTER_OTLP_*``. Spans are made by one thread and
sent by another, in batches; a receiver that is away costs spans and never a run.
"""

import os
import queue
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from windlass.traces import TraceContext
from windlass_operator import metrics
from windlass_operator.services.spans import Span

log = structlog.get_logger()

_QUEUE: Final = 16_384
"""Spans that may wait to be sent; beyond it some are dropped. An attempt with many steps hands over many at once."""
_BREATH: Final = 0.0001
"""Seconds after each span in which the event loop can have the interpreter: a span takes 0.3 ms to make, and without a
pause the loop would get it every 5 ms only."""
_PATIENCE: Final = 5.0
"""Seconds that the end of a process waits for its last spans."""
_ENDS: Final = 4096
"""Ends of runs and attempts whose spans may wait to be made; those beyond it have none."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_KINDS: Final = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER}


class Exporter:
    """Sends spans in the background.

    Args:
        version: Of this release, as ``service.version``.
        service: ``service.name``, where ``OTEL_SERVICE_NAME`` does not say another.
    """

    def __init__(self, version: str, service: str) -> None:
        self._ids = _PlannedIds()
        resource = {SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", service), SERVICE_VERSION: version}
        # Whether a trace is recorded was decided when its run was accepted; nobody decides again.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(resource), id_generator=self._ids, shutdown_on_exit=False
        )
        size = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else _QUEUE
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=size))
        self._tracer = self._provider.get_tracer("windlass", version)
        self._waiting: queue.Queue[Iterable[Span] | threading.Event] = queue.Queue(_ENDS)
        threading.Thread(target=self._work, name="spans", daemon=True).start()

    def send(self, spans: Iterable[Span]) -> None:
        """Hand spans over. Returns at once: they are taken, made and sent elsewhere."""
        try:
            self._waiting.put_nowait(spans)
        except queue.Full:
            metrics.SPANS_DROPPED.inc()

    def flush(self) -> None:
        """Send what waits. Blocks for as long as the receiver takes, 5 s at most for each of two reasons to wait."""
        done = threading.Event()
        try:
            self._waiting.put(done, timeout=_PATIENCE)
        except queue.Full:
            return
        done.wait(_PATIENCE)
        self._provider.force_flush(int(_PATIENCE * 1000))

    def close(self) -> None:
        """Send what waits and end the sending. Blocks."""
        self.flush()
        self._provider.shutdown()

    def _work(self) -> None:
        while True:
            spans = self._waiting.get()
            if isinstance(spans, threading.Event):
                spans.set()
                continue
            try:
                for span in spans:
                    self._make(span)
                    time.sleep(_BREATH)
            except Exception:  # a span that cannot be made must not end the making of all others
                log.exception("spans not made")

    def _make(self, span: Span) -> None:
        if not span.place.sampled:
            return
        parent = NonRecordingSpan(_context(span.place.under(span.parent))) if span.parent else trace.INVALID_SPAN
        self._ids.plan(span.place)
        made = self._tracer.start_span(
            span.name,
            trace.set_span_in_context(parent),
            _KINDS[span.kind],
            attributes=dict(span.attributes),
            start_time=_nanoseconds(span.start),
        )
        if span.error is not None:
            made.set_status(StatusCode.ERROR, span.error)
            made.set_attribute("error.type", span.error)
        made.end(_nanoseconds(span.end))
        metrics.SPANS.inc()


class _PlannedIds(IdGenerator):
    """Gives the next span the ids that were planned for it: ours are derived from the ledger's.

    Only one thread makes spans, one after the other, so the plan cannot be another span's.
    """

    def __init__(self) -> None:
        self._next = TraceContext("0" * 31 + "1", "0" * 15 + "1")

    def plan(self, place: TraceContext) -> None:
        """Plan the next span's ids."""
        self._next = place

    def generate_trace_id(self) -> int:
        """Return the planned trace id."""
        return int(self._next.trace_id, 16)

    def generate_span_id(self) -> int:
        """Return the planned span id."""
        return int(self._next.span_id, 16)


def _context(place: TraceContext) -> SpanContext:
    return SpanContext(
        int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(place.sampled))
    )


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1000
