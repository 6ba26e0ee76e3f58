"""Which events a wait is for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_operator.domain.matching import contains, selector, selectors, size

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2.0, -0.0]) | st.sampled_from("ab\0")
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def scalar_key(value: Any) -> tuple[str, Any]:
    if value is None or isinstance(value, bool | str):
        return type(value).__name__, value
    return "number", value


def reference(value: Any, wanted: Any) -> bool:
    """The rule, said in another way: strike from the wanted what is there, and look whether anything is left."""
    if type(value) is dict and type(wanted) is dict:
        return [name for name in wanted if name not in value or not reference(value[name], wanted[name])] == []
    if type(value) is list and type(wanted) is list:
        return [item for item in wanted if True not in [reference(own, item) for own in value]] == []
    if isinstance(value, dict | list) or isinstance(wanted, dict | list):
        return False
    return scalar_key(value) == scalar_key(wanted)


@st.composite
def thinned(draw: st.DrawFn, value: Any) -> Any:
    """Return a value with some of its fields and elements left out: what it contains."""
    if isinstance(value, dict):
        return {name: draw(thinned(inner)) for name, inner in value.items() if draw(st.booleans())}
    if isinstance(value, list):
        return [draw(thinned(inner)) for inner in value if draw(st.booleans())]
    return value


@given(JSON, JSON)
def test_containment_is_that_of_the_reference(value: Any, wanted: Any) -> None:
    assert contains(value, wanted) == reference(value, wanted)


@given(st.data(), JSON)
def test_a_value_contains_whatever_is_left_when_parts_of_it_are_taken_away(data: st.DataObject, value: Any) -> None:
    less = data.draw(thinned(value))
    assert contains(value, less)
    assert contains(json.loads(json.dumps(value)), json.loads(json.dumps(less)))


@given(JSON, JSON)
def test_the_word_of_a_match_is_among_those_of_every_payload_that_contains_it(value: Any, wanted: Any) -> None:
    word = selector(wanted)
    if contains(value, wanted) and word is not None:
        assert word in selectors(value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"orderId": 7, "lines": [{"sku": "a", "n": 2}]}, {"orderId": 7}),
        ({"orderId": 7, "lines": [{"sku": "a", "n": 2}]}, {"lines": [{"sku": "a"}]}),
        ({"orderId": 7.0}, {"orderId": 7}),
        ([3, 1, 2], [1, 3, 3]),
        ({"a": None}, {"a": None}),
        ({}, {}),
        ("\0", "\0"),
    ],
)
def test_these_contain_what_is_wanted(value: Any, wanted: Any) -> None:
    assert contains(value, wanted)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"orderId": 7}, {"orderId": "7"}),
        ({"paid": True}, {"paid": 1}),
        ({"n": 0}, {"n": False}),
        ({}, {"a": None}),
        ([1], 1),
        (None, {}),
        ({"a": []}, {"a": [1]}),
        ("abc", "a"),
    ],
)
def test_these_do_not(value: Any, wanted: Any) -> None:
    assert not contains(value, wanted)


def test_numbers_that_are_equal_are_found_by_one_word() -> None:
    assert selectors({"n": 2**60}) == selectors({"n": float(2**60)})
    assert selectors({"n": 1}) != selectors({"n": True})


def test_two_hundred_levels_are_compared() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [{"a": deep}]
    assert contains(deep, deep)
    assert size(deep) == 201
