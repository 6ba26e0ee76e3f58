"""A Task's payloadSchema is a stranger's program: whatever it is, checking a payload against it takes bounded time."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from windlass_operator.domain.errors import PayloadInvalidError
from windlass_operator.services import payloads


@pytest.fixture(autouse=True)
def in_bounded_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


def _doubling(levels: int, keyword: str = "allOf") -> dict[str, Any]:
    parts: dict[str, Any] = {"l0": {"type": "integer"}}
    for n in range(1, levels):
        parts[f"l{n}"] = {keyword: [{"$ref": f"#/$defs/l{n - 1}"}] * 2}
    return {"$defs": parts, "$ref": f"#/$defs/l{levels - 1}"}


def _chain(length: int) -> dict[str, Any]:
    parts: dict[str, Any] = {f"l{n}": {"$ref": f"#/$defs/l{n + 1}"} for n in range(length)}
    return {"$defs": {**parts, f"l{length}": {}}, "$ref": "#/$defs/l0"}


@pytest.mark.parametrize(
    "schema",
    [
        _doubling(40),
        _doubling(40, "anyOf"),
        _doubling(40, "oneOf"),
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"properties": {"deep": _doubling(30)["$defs"]["l0"], "x": {"anyOf": [{"type": "string"}] * 1_001}}},
        _chain(5_000),
        {"$ref": "http://elsewhere/schema"},
        {"properties": {"a": {"$id": "http://x/y", "$ref": "#/z"}}},
    ],
    ids=["allOf", "anyOf", "oneOf", "itself", "wide", "chain", "elsewhere", "nested id"],
)
def test_a_schema_that_cannot_be_checked_in_bounded_time_is_refused_by_name(schema: dict[str, Any]) -> None:
    with pytest.raises(PayloadInvalidError) as refused:
        payloads.check_schema(schema)
    assert refused.value.field == "spec.payloadSchema"
    assert "payloadSchema" in refused.value.message
    with pytest.raises(PayloadInvalidError):
        payloads.check(1, schema)


def test_alternatives_that_refer_to_themselves_multiply_with_the_payloads_depth() -> None:
    tree = {"anyOf": [{"properties": {"a": {"$ref": "#/$defs/t"}}}, {"properties": {"a": {"$ref": "#/$defs/t"}}}]}
    schema = {"$defs": {"t": tree}, "$ref": "#/$defs/t"}
    payloads.check_schema(schema)
    payload: Any = {}
    for _ in range(8):
        payload = {"a": payload}
    payloads.check(payload, schema)
    for _ in range(40):
        payload = {"a": payload}
    with pytest.raises(PayloadInvalidError, match="49 values, 48 levels deep; the limit is") as refused:
        payloads.check(payload, schema)
    assert refused.value.field == "spec.payload"


def test_a_tree_that_refers_to_itself_once_for_each_part_is_no_problem() -> None:
    node = {"type": "object", "properties": {"left": {"$ref": "#/$defs/t"}, "right": {"$ref": "#/$defs/t"}}}
    schema = {"$defs": {"t": node}, "$ref": "#/$defs/t"}
    payload: Any = {}
    for _ in range(60):
        payload = {"left": payload, "right": {}}
    payloads.check(payload, schema)


@pytest.mark.parametrize(
    "pattern", [r"^(a+)+$", r"^(a|a)*$", r"(x+x+)+y", r"^(?=(a+)+$)a.*b$", r"^(a+)+\1$", r"^(a*)*\1b$"]
)
def test_no_pattern_takes_more_than_bounded_time(pattern: str) -> None:
    with pytest.raises(PayloadInvalidError):
        payloads.check("a" * 50_000 + "!", {"pattern": pattern})


def test_many_values_that_are_wrong_in_many_ways_are_refused_at_once() -> None:
    many = {"anyOf": [{"items": {"type": "integer"}}, {"items": {"type": "boolean"}}]}
    with pytest.raises(PayloadInvalidError, match="too large to say where"):
        payloads.check(["x"] * 200_000, many)
    with pytest.raises(PayloadInvalidError, match=r"payload\[199999\]: "):
        payloads.check([1] * 199_999 + ["x"], {"items": {"type": "integer"}})


def test_an_anchor_and_a_pointer_find_what_they_name() -> None:
    schema = {
        "$defs": {"a/b": {"type": "integer"}, "c": {"$anchor": "see", "minimum": 3}},
        "allOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#see"}],
    }
    payloads.check(4, schema)
    with pytest.raises(PayloadInvalidError):
        payloads.check(2, schema)
