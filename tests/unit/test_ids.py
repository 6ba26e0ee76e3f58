"""Identifiers are made in order: whatever is queued, listed or answered by them stands as it was made."""

import time
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest

from windlass_operator.domain import ids
from windlass_operator.domain.ids import new_id

_NOW = 1_900_000_000_000
"""Milliseconds, later than any that these tests are run at."""


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests make of the newest id is forgotten."""
    monkeypatch.setattr(ids, "_last", 0)


def clock_says(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: milliseconds * 1_000_000)


def is_version_7(made: UUID) -> bool:
    return made.version == 7 and made.variant == RFC_4122


def test_ids_of_one_millisecond_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_says(monkeypatch, _NOW)
    made = [new_id() for _ in range(10_000)]
    assert all(one < two for one, two in pairwise(made))
    assert all(map(is_version_7, made))
    assert {value.int >> 80 for value in made} == {_NOW}


def test_ids_rise_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_says(monkeypatch, _NOW)
    before = new_id()
    clock_says(monkeypatch, _NOW - 3_600_000)
    assert before < new_id() < new_id()


def test_a_later_millisecond_is_the_time_of_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_says(monkeypatch, _NOW)
    before = new_id()
    clock_says(monkeypatch, _NOW + 1)
    after = new_id()
    assert (before.int >> 80, after.int >> 80) == (_NOW, _NOW + 1)


def test_a_millisecond_that_is_full_goes_on_in_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_says(monkeypatch, _NOW)
    monkeypatch.setattr(ids, "_last", (_NOW + 1 << 74) - 1)
    made = new_id()
    assert made.int >> 80 == _NOW + 1
    assert is_version_7(made)
