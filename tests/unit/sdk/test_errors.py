"""Exceptions: what is kept of those of the user's code, and how ours travel."""

import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import History
from windlass import Retry, step, task
from windlass.durations import InvalidDurationError, format_duration, parse_duration, write_duration
from windlass.errors import ApiError, PermanentError, ProtocolError, RetryAt, RunFailedError, WindlassError
from windlass.failures import failure_of


@pytest.mark.parametrize(
    "error",
    [
        RetryAt("5m", "busy"),
        RetryAt(timedelta(minutes=5)),
        ApiError("TaskNotFound", "no", status=404, field="task", hint="apply it"),
        RunFailedError("TimedOut", "late"),
        ProtocolError("Http418", "teapot"),
        PermanentError("no"),
    ],
)
def test_an_error_of_ours_survives_a_pool_of_processes(error: WindlassError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


class Mute(Exception):  # noqa: N818 - of a user
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_whose_text_cannot_be_made_is_reported_all_the_same() -> None:
    @task
    def main() -> None:
        raise Mute

    failure = History().failure(main)
    assert (failure.type, failure.failure_class) == ("Mute", "user")
    assert failure.message == "Mute, whose text cannot be made: RuntimeError"


def test_an_exception_without_text_says_its_name() -> None:
    assert failure_of(KeyError()).message == "KeyError"


def test_a_chain_of_thousands_of_exceptions_is_cut_to_its_end() -> None:
    error: Exception = ValueError("first")
    for n in range(5000):
        following = ValueError(f"number {n}")
        following.__cause__, error = error, following
    failure = failure_of(error)
    assert failure.traceback is not None
    assert len(failure.traceback.encode()) <= 32_768
    assert failure.traceback.endswith("ValueError: number 4999\n")


def test_texts_with_lone_surrogates_can_be_sent() -> None:
    failure = failure_of(ValueError("\ud800"))
    assert failure.message == "?"
    assert failure.traceback is not None
    failure.traceback.encode()


@pytest.mark.parametrize("name", ["a/b", "a#2", "a\n", "\0", "\ud800", "x" * 201])
def test_a_step_cannot_have_a_name_that_keys_cannot_carry(name: str) -> None:
    with pytest.raises(TypeError, match="cannot be a step's name"):
        step(name=name)(lambda: None)


@pytest.mark.parametrize(
    "name", ["Order", "order_", "-order", "order-", "x" * 64, "a..b", "é"],
)  # fmt: skip
def test_a_task_cannot_have_a_name_that_a_resource_cannot_have(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a Task resource"):
        task(name=name)(lambda: None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": 3}, "@task has no option retries"),
        ({"retry": 3}, "write Retry"),
        ({"timeout": "0s"}, "write more than nothing"),
        ({"timeout": "soon"}, "'soon' is not a duration"),
        ({"attempt_timeout": timedelta(-1)}, "is not a duration"),
    ],
)
def test_an_option_that_means_nothing_is_refused_where_it_is_written(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        task(**options)(lambda: None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_attempts": 0}, "write 1"),
        ({"factor": 0.5}, "write 1"),
        ({"jitter": "some"}, "'full' or 'none'"),
        ({"min_delay": "2m"}, "is longer than max_delay"),
        ({"max_delay": "1 minute"}, "'1 minute' is not a duration"),
        ({"min_delay": timedelta(-1)}, "is not a duration"),
    ],
)
def test_a_retry_that_means_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Retry(**options)


@settings(deadline=None)
@given(st.integers(0, 3650 * 86_400_000).map(lambda ms: timedelta(milliseconds=ms)))
def test_a_written_duration_is_read_back_exactly(duration: timedelta) -> None:
    assert parse_duration(write_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172_800), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "5M", "1h\n", "m5", "٣s", "9" * 60 + "d", "3651d", None, 5])
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(InvalidDurationError, match="is not a duration"):
        parse_duration(text)


def test_durations_are_shown_with_two_units_at_most() -> None:
    shown = [format_duration(timedelta(seconds=s)) for s in (0.0123, 4.25, 59, 61, 3600, 5400, 90_000)]
    assert shown == ["12ms", "4.25s", "59s", "1m1s", "1h", "1h30m", "1d1h"]
