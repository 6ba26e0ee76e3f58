"""What is wrong with a value that cannot become JSON, and where: the part of serialization that writes messages."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from windlass.errors import SerializationError

DEPTH: Final = 200
"""Levels of objects and arrays that the API takes (``protocol.DEPTH``); pydantic gives up soon after."""
_DIGITS: Final = 300
"""Of the longest integer: some JSON readers refuse longer ones, others round them to infinity."""
_BEYOND: Final = 10**_DIGITS
_SELF: Final = "the value itself"


def explain(value: Any, what: str, error: BaseException) -> SerializationError:
    """Return the error for a value of which no JSON could be made; the text names path and type."""
    problem = find_problem(value) or _refused_part(value, "", 0) or str(error).splitlines()[0][:200]
    return SerializationError(f"The {what} cannot be saved: {problem}")


def find_problem(value: Any) -> str | None:
    """Return what is wrong with the first offending part, with its path, or None where only pydantic can say.

    Looks into models too, for numbers that JSON does not have: pydantic would write null for them, silently.
    """
    try:
        return _find(value, "", frozenset(), in_model=False)
    except RecursionError:
        return f"{_SELF} is nested too deeply."


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass or a pydantic model; nothing of any other value."""
    if isinstance(value, type):
        return {}
    if hasattr(value, "__pydantic_fields_set__"):
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    names = getattr(value, "__dataclass_fields__", {})
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def named(value: Any) -> str:
    """Return words for a value's type."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"


def _find(value: Any, path: str, above: frozenset[int], *, in_model: bool) -> str | None:
    problem = _not_json(value, path or _SELF) or (None if in_model else _not_data(value, path or _SELF))
    if problem is not None:
        return problem
    if id(value) in above:
        return f"{path or _SELF} contains itself."
    if len(above) >= DEPTH and (isinstance(value, Mapping | list | tuple | set | frozenset) or fields_of(value)):
        return f"{path[:80]}… is nested too deeply."
    items = _parts(value, path)
    inside = above | {id(value)}
    # A model decides by itself how it writes its fields: what looks like no data may have a serializer.
    model = in_model or bool(fields_of(value))
    return next((found for at, item in items if (found := _find(item, at, inside, in_model=model)) is not None), None)


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"{path}.{key}", item) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return [(f"{path}.{name}", item) for name, item in fields_of(value).items()]


def _not_json(value: Any, where: str) -> str | None:
    """Return what is wrong with a plain value that has no JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is {value}, which JSON does not have."
    if isinstance(value, int) and not -_BEYOND < value < _BEYOND:
        return (
            f"{where} is an integer of more than {_DIGITS} digits, which many JSON readers cannot hold. Use a string."
        )
    if isinstance(value, str) and _lone_surrogate(value):
        return f"{where} has a lone surrogate, which UTF-8 cannot carry."
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, str) and _lone_surrogate(key):
                return f"{where} has the key {key!r} with a lone surrogate, which UTF-8 cannot carry."
    return None


def _not_data(value: Any, where: str) -> str | None:
    """Return what is wrong with a value that is no data, or that pydantic would change without a word."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{where} is {named(value)}. Encode it (base64), or store it yourself and pass its key."
    if callable(value) or inspect.iscoroutine(value):
        return f"{where} is {named(value)}, which is not data."
    if isinstance(value, Iterator):
        return f"{where} is {named(value)}, which can be read only once. Make it a list."
    if type(value) is object:
        return f"{where} is {named(value)}, which has no JSON form."
    if type(value).__module__ == "pydantic.types" and type(value).__name__.startswith("Secret"):
        return f"{where} is {named(value)}, of which only stars would be saved. Read secrets from the environment."
    return None


def _lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _refused_part(value: Any, path: str, depth: int) -> str | None:
    """Return the innermost part that pydantic refuses, or None if it refuses none."""
    if _accepted(value):
        return None
    if depth < DEPTH:
        for at, item in _parts(value, path):
            found = _refused_part(item, at, depth + 1)
            if found is not None:
                return found
    where = path or _SELF
    for key in value if isinstance(value, Mapping) else ():
        if not _accepted({key: None}):
            return f"{where} has a key that is {named(key)}, which has no JSON form."
    return f"{where} is {named(value)}, which has no JSON form."


def _accepted(value: Any) -> bool:
    from pydantic_core import to_jsonable_python

    try:
        to_jsonable_python(value, inf_nan_mode="constants")
    except Exception:
        return False
    return True
