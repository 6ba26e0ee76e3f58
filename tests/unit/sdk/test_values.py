"""What a value must be to be saved: what another reader would refuse is refused here first, with its place."""

from typing import Any

import pytest

from windlass.errors import SerializationError
from windlass.serialization import encode


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [deep(200), {"n": 10**300 - 1, "m": -(10**300) + 1}, "7" * 5000, [[]] * 1000])
def test_a_value_at_the_limits_is_saved(value: Any) -> None:
    assert encode(value, what="result")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (deep(201), "The result cannot be saved: [0][0]"),
        ([deep(199), [[]], deep(200)], "The result cannot be saved: [2][0]"),
        ({"a": deep(5000)}, "The result cannot be saved: "),
        ({"a": [1, 10**300]}, "The result cannot be saved: .a[1] is an integer of more than 300 digits,"),
        (10**5000, "The result cannot be saved: the value itself is an integer of more than 300 digits,"),
        ({"a": float("nan")}, "The result cannot be saved: .a is nan, which JSON does not have."),
        (["\ud800"], "The result cannot be saved: [0] has a lone surrogate, which UTF-8 cannot carry."),
    ],
    ids=["201 levels", "beside others", "5,000 levels", "301 digits", "5,001 digits", "NaN", "surrogate"],
)
def test_a_value_that_others_could_not_read_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(SerializationError) as refused:
        encode(value, what="result")
    assert str(refused.value).startswith(message)


def test_what_is_too_deep_says_so_of_the_step() -> None:
    with pytest.raises(SerializationError, match="is nested too deeply"):
        encode(deep(201), what="result of step 'a'")
