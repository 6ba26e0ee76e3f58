"""W3C trace context: what is one, what is ignored, and how places of spans follow from it."""

import pytest

from windlass.traces import TraceContext, current, parse, step_span_id
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.spans import attempt_place

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (GOOD, True),
        (f" {GOOD} ", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_traceparent_is_read(text: str, sampled: bool) -> None:
    assert parse(text) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "hello",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        GOOD + "\x00",
        "0" * 100_000,
    ],
)
def test_what_is_no_traceparent_is_ignored_and_never_an_error(text: str | None) -> None:
    assert parse(text) is None
    assert Recorder().start_trace(text) == (None, None)


def test_a_context_is_written_as_it_was_read() -> None:
    assert str(parse(GOOD)) == GOOD


def test_without_tracing_the_callers_context_is_handed_through_to_the_code() -> None:
    record = Recorder()
    assert record.start_trace(GOOD) == (GOOD, None)
    from uuid import uuid4

    assert record.place_of(GOOD, uuid4()) == GOOD


def test_with_tracing_a_run_stands_under_its_submission_in_the_callers_trace() -> None:
    kept, place = Recorder(lambda _: None).start_trace(GOOD)
    assert place is not None
    assert (place.trace_id, place.span_id != SPAN, kept) == (TRACE, True, str(place))


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
def test_the_ratio_decides_for_runs_without_a_callers_trace_only(ratio: float, sampled: bool) -> None:
    record = Recorder(lambda _: None, ratio=ratio)
    _, own = record.start_trace(None)
    _, joined = record.start_trace(GOOD)
    assert own is not None
    assert joined is not None
    assert (own.sampled, joined.sampled) == (sampled, True)


def test_a_step_has_the_same_span_in_the_pod_and_in_the_control_plane_and_another_in_each_attempt() -> None:
    first = "01890a5d-ac96-774b-bcce-b302099a8057"
    place = attempt_place(GOOD, first)
    assert place is not None
    assert (place.trace_id, place.span_id) == (TRACE, "bcceb302099a8057")
    assert step_span_id(first, "charge") == step_span_id(first, "charge")
    assert len({step_span_id(first, "charge"), step_span_id(first, "charge#2"), step_span_id("other", "charge")}) == 3


@pytest.mark.parametrize(("text", "sent"), [(GOOD, GOOD), ("junk\r\nX-Injected: 1", None), ("", None)])
def test_what_the_environment_calls_a_traceparent_is_sent_only_if_it_is_one(
    text: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", text)
    assert current() == sent
