"""Values to JSON and back: what survives, what is refused, and in which words."""

import enum
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer

from windlass.errors import SerializationError
from windlass.serialization import EMPTY, annotations_of, decode, encode, hash_arguments


class Colour(enum.Enum):
    RED = "red"


class Line(BaseModel):
    sku: str
    price: Decimal = Decimal("9.90")
    anything: Any = None


@dataclass
class Order:
    id: uuid.UUID
    when: datetime
    lines: list[Line] = field(default_factory=list)
    colours: set[Colour] = field(default_factory=set)


class Tree(BaseModel):
    below: list["Tree"] = []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json_values)
def test_json_values_come_back_as_they_were(value: Any) -> None:
    data = encode(value, what="result")
    data.decode()
    assert decode(data, EMPTY, what="result") == value


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        ("a\0b", str, '"a\\u0000b"'),
        ("é😀", str, '"é😀"'),
        (10**299, int, str(10**299)),
        (Decimal("1.50"), Decimal, '"1.50"'),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), datetime, '"2026-01-02T03:00:00Z"'),
        (date(2026, 1, 2), date, '"2026-01-02"'),
        (timedelta(minutes=90), timedelta, '"PT1H30M"'),
        (uuid.UUID(int=1), uuid.UUID, '"00000000-0000-0000-0000-000000000001"'),
        (Path("/a"), Path, '"/a"'),
        (Colour.RED, Colour, '"red"'),
        ({3}, set[int], "[3]"),
        ((1, "a"), tuple[int, str], '[1,"a"]'),
        ({1: "a"}, dict[int, str], '{"1":"a"}'),
        (OrderedDict(b=1, a=2), dict, '{"b":1,"a":2}'),
        (None, Line | None, "null"),
        ([Line(sku="a")], list[Line], '[{"sku":"a","price":"9.90","anything":null}]'),
        ("9" * 400, str, f'"{"9" * 400}"'),
    ],
)
def test_rich_values_come_back_by_their_annotation(value: Any, annotation: Any, text: str) -> None:
    data = encode(value, what="result")
    assert data.decode() == text
    assert decode(data, annotation, what="result") == value


def test_a_dataclass_with_everything_comes_back_whole() -> None:
    order = Order(uuid.UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), [Line(sku="x")], {Colour.RED})
    assert decode(encode(order, what="result"), Order, what="result") == order


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "the value itself is nan, which JSON does not have."),
        ({"a": [1, float("-inf")]}, ".a[1] is -inf, which JSON does not have."),
        ([Line(sku="x", anything=float("inf"))], "[0].anything is inf, which JSON does not have."),
        (10**300, "the value itself is an integer of more than 300 digits"),
        ({"n": -(10**5000)}, ".n is an integer of more than 300 digits, which many JSON readers cannot hold."),
        (Line(sku="x", anything=10**400), ".anything is an integer of more than 300 digits"),
        ({"s": ["\ud800"]}, ".s[0] has a lone surrogate, which UTF-8 cannot carry."),
        ({"s": {"\udfff": 1}}, ".s has the key '\\udfff' with a lone surrogate"),
        ({"b": b"x"}, ".b is a value of type bytes. Encode it (base64)"),
        ([lambda: 0], "[0] is a value of type function, which is not data."),
        ({"c": Line}, ".c is a value of type pydantic"),
        (iter([1]), "the value itself is a value of type list_iterator, which can be read only once. Make it a list."),
        ((n for n in [1]), "is a value of type generator, which can be read only once."),
        ({"k": SecretStr("x")}, ".k is a value of type pydantic.types.SecretStr, of which only stars would be saved."),
        (range(3), "the value itself is a value of type range, which has no JSON form."),
        ({"e": ValueError("x")}, ".e is a value of type ValueError, which has no JSON form."),
        ({"k": {object(): 1}}, ".k has a key that is a value of type object, which has no JSON form."),
        (Line(sku="x", anything=object()), ".anything is a value of type object, which has no JSON form."),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode(value, what="result of step 'pick'")
    assert str(caught.value).startswith("The result of step 'pick' cannot be saved: ")
    assert said in str(caught.value)


def _deep(levels: int, bottom: Any) -> Any:
    value = bottom
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [_deep(5000, 1), _deep(5000, {1}), _deep(300, {1})], ids=["plain", "rich", "less"])
def test_what_is_nested_too_deeply_is_refused(value: Any) -> None:
    with pytest.raises(SerializationError, match="nested too deeply"):
        encode(value, what="result")


def test_a_value_that_contains_itself_is_refused() -> None:
    plain: dict[str, Any] = {}
    plain["a"] = [plain]
    tree = Tree()
    tree.below.append(tree)
    for value in (plain, {"set": {1}, "a": plain}, tree):
        with pytest.raises(SerializationError, match="contains itself"):
            encode(value, what="result")


def test_the_same_part_in_two_places_is_no_cycle() -> None:
    part = {1}
    assert encode([part, part], what="result") == b"[[1],[1]]"


def test_a_serializer_of_the_users_decides_what_is_written() -> None:
    class Loose(BaseModel):
        x: Any

        @field_serializer("x")
        def _x(self, value: Any) -> Any:
            return repr(value)

    assert encode(Loose(x=object), what="result") == b'{"x":"<class \'object\'>"}'


@pytest.mark.parametrize(
    ("data", "annotation", "said"),
    [
        (b"1" * 5000, int, "payload: Exceeds the limit (4300 digits)"),
        (b"1" * 5000, EMPTY, "payload: Exceeds the limit (4300 digits)"),
        (b"[" * 100_000 + b"]" * 100_000, list, "payload: it is nested too deeply"),
        (b"{", EMPTY, "payload: Expecting property name"),
        (b'"a"', int, "payload: the code wants int, and this is a value of type str."),
        (b"true", int, "payload: the code wants int, and this is a value of type bool."),
        (b'{"sku":7}', Line, "payload.sku: Input should be a valid string"),
        (b'{"lines":[{}]}', dict[str, list[Line]], "payload.lines[0].sku: Field required"),
        (b'"blue"', Colour, "payload: Input should be 'red'"),
        (b"3", Literal[1, 2], "payload: Input should be 1 or 2"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_json_that_does_not_fit_the_annotation_says_where(data: bytes, annotation: Any, said: str) -> None:
    with pytest.raises(SerializationError) as caught:
        decode(data, annotation, what="payload")
    assert str(caught.value).startswith(said)


def _hash(function: Any, *args: Any, **kwargs: Any) -> str:
    return hash_arguments(annotations_of(function)[0], "s", args, kwargs)


def test_a_hash_is_the_same_however_arguments_are_passed_and_ordered() -> None:
    def step(a: Any, b: int = 2, **more: Any) -> None: ...

    assert _hash(step, 1) == _hash(step, a=1, b=2) == _hash(step, 1, 2)
    assert _hash(step, {"x": 1, "y": 2}) == _hash(step, {"y": 2, "x": 1})
    assert _hash(step, {"b", "a", "c"}) == _hash(step, {"c", "a", "b"})
    assert _hash(step, 1) != _hash(step, 1, 3)
    assert _hash(step, 1) != _hash(step, "1")


def test_hashes_of_one_release_are_those_of_the_next() -> None:
    """They stand in ledgers: a change here makes every run that is under way diverge."""

    def step(a: Any, b: int = 2) -> None: ...

    assert _hash(step, {"y": [1, None, 2.5, "é"], "x": True}) == "8d8591ae480ab1d9"
    assert _hash(step, Line(sku="a"), b=3) == "fe416de10baa1e48"


def test_an_argument_that_is_no_data_is_named() -> None:
    def step(a: Any) -> None: ...

    with pytest.raises(SerializationError, match=r"argument 'a' of step 's' cannot be saved: \[0\] is a value of type"):
        _hash(step, [object()])
    with pytest.raises(TypeError, match="Step 's' is called with other arguments than it takes: missing"):
        _hash(step)


def test_annotations_that_cannot_be_resolved_count_as_none() -> None:
    def step(a: "Nowhere") -> "Nowhere": ...  # type: ignore[name-defined]  # noqa: F821 - the point

    signature, returned = annotations_of(step)
    assert signature.parameters["a"].annotation is EMPTY
    assert returned is EMPTY


def test_a_field_alias_is_read_as_it_was_written() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        order_id: int = Field(alias="orderId")

    made = Aliased.model_validate({"orderId": 7})
    assert decode(encode(made, what="result"), Aliased, what="result") == made
