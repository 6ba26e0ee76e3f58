"""A step's pauses and a run's are one rule, which the SDK and the control plane each have."""

from typing import Literal

import pytest

from windlass import Retry, tries
from windlass.durations import parse_duration
from windlass_operator.domain.retry import RetryPolicy, backoff


@pytest.mark.parametrize("failures", [1, 2, 3, 50, 899])
@pytest.mark.parametrize("jitter", ["full", "none"])
def test_pauses_are_those_of_the_control_plane(failures: int, jitter: Literal["full", "none"]) -> None:
    ours = Retry(max_attempts=900, min_delay="250ms", factor=3, max_delay="40s", jitter=jitter)
    theirs = RetryPolicy(900, parse_duration(ours.min_delay), 3, parse_duration(ours.max_delay), jitter)
    assert tries.pause(ours, failures, 0.75) == pytest.approx(backoff(theirs, failures, 0.75).total_seconds())
