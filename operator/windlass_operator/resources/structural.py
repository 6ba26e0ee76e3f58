"""Turns the JSON Schema of a model into a structural schema, the form that Kubernetes asks for.

No references, no alternatives, no closed objects.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from windlass_operator.resources.base import KubeModel

Object = dict[str, Any]


def structural(model: type[KubeModel]) -> Object:
    """Return the structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    converted = _convert(schema, schema.get("$defs", {}))
    if not isinstance(converted, dict):  # pragma: no cover - a model is an object
        raise TypeError(f"{model.__name__} has no object schema")
    return converted


def _convert(node: Any, defs: Mapping[str, Any]) -> Any:
    if not isinstance(node, dict):
        return node
    node = _flattened(node, defs)
    out: Object = {}
    for key, value in node.items():
        if _has_no_place(key, value):
            continue
        match key:
            case "description":
                out[key] = " ".join(inspect.cleandoc(value).split())
            case "properties":
                out[key] = {name: _convert(child, defs) for name, child in value.items()}
            case "items" | "additionalProperties":
                out[key] = _convert(value, defs)
            case "const":
                out["enum"] = [value]
            case "default":
                out[key] = _plain_numbers(value)
            case _:
                out[key] = value
    return {key: out[key] for key in sorted(out, key=_order)}


def _has_no_place(key: str, value: Any) -> bool:
    """Whether a structural schema knows no such keyword, or it says nothing: a default of null is absence."""
    closed = key == "additionalProperties" and value is False
    return closed or (key == "default" and value is None) or key in ("title", "$defs", "propertyNames", "examples")


def _flattened(node: Object, defs: Mapping[str, Any]) -> Object:
    """Return a node without references and without the alternative "or null"."""
    if "$ref" in node:
        # What stands beside a reference says more than what it refers to: the field's own text, not the type's.
        target = defs[node["$ref"].rsplit("/", 1)[-1]]
        return _flattened({**target, **{k: v for k, v in node.items() if k != "$ref"}}, defs)
    alternatives = node.get("anyOf", [])
    if {"type": "null"} not in alternatives:
        return node
    (alternative,) = (a for a in alternatives if a != {"type": "null"})
    rest = {k: v for k, v in node.items() if k != "anyOf"}
    return {**_flattened(alternative, defs), **rest, "nullable": True}


def _plain_numbers(value: Any) -> Any:
    """Return 2 for 2.0: it comes back as 2 from the server and would look like a change."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _order(key: str) -> tuple[int, str]:
    first = ("description", "type", "default", "required", "properties")
    return (first.index(key), "") if key in first else (len(first), key)
