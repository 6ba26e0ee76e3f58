"""How much work a JSON schema can make of checking a value, found without doing it.

References may double at each level: forty lines then stand for a million million checks. Here each subschema is looked
at once and its cost remembered, so the answer is cheap however large it is. It is an upper bound: a validator that
stops at the first failure does less.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

MOST_AT_ONE_PLACE: Final = 1_000
"""Subschemas that may apply to one value. People's schemas have ten; a thousand take a validator 0.1 s to report on."""
MOST_STEPS: Final = 500_000
"""Of our own looking: it ends, whatever the schema is."""

_HERE_ONE: Final = ("not", "if", "then", "else")
_HERE_MANY: Final = ("allOf", "anyOf", "oneOf")
_HERE_NAMED: Final = ("dependentSchemas", "dependencies")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_EVERY: Final = (
    "items", "additionalItems", "unevaluatedItems", "contains",
    "additionalProperties", "unevaluatedProperties", "propertyNames",
)  # fmt: skip
_LISTS: Final = ("prefixItems", "items")

Place = tuple[str, str | int] | None
"""A property or an item of the value; None is any of them."""


class SchemaTooCostlyError(Exception):
    """The schema cannot be checked in bounded time; the text says why."""


class SchemaCost:
    """The cost of one schema.

    Args:
        schema: A JSON schema.

    Attributes:
        alternatives: Whether it has any, each of which must fail before a value is refused.

    Raises:
        SchemaTooCostlyError: Too many of its parts apply to one value, or it refers to what we do not follow.
    """

    def __init__(self, schema: Any) -> None:
        self.alternatives = False
        self._root = schema
        self._steps = 0
        self._here: dict[int, Counter[int]] = {}
        self._below: dict[tuple[int, int], int] = {}
        self._nodes: dict[int, Any] = {}
        self._busy: set[int] = set()
        self._anchors = dict(_anchors(schema))
        try:
            for part in self._reachable():
                self.alternatives = self.alternatives or "anyOf" in _dict(part) or "oneOf" in _dict(part)
                if sum(self._applied(part).values()) > MOST_AT_ONE_PLACE:
                    raise SchemaTooCostlyError(
                        f"its references unfold to more than {MOST_AT_ONE_PLACE} subschemas for one value"
                    )
        except RecursionError:
            raise SchemaTooCostlyError("its references are nested too deep") from None

    def at_one_place(self, depth: int) -> int:
        """Return how many subschemas apply to one part of a value of this depth, at most.

        Raises:
            SchemaTooCostlyError: Even that takes too long to find out.
        """
        self._steps = 0
        try:
            return self._most(self._root, depth)
        except RecursionError:
            raise SchemaTooCostlyError("its references are nested too deep") from None

    def _most(self, schema: Any, depth: int) -> int:
        found = self._below.get((id(schema), depth))
        if found is None:
            applied = self._applied(schema)
            found = sum(applied.values())
            if depth > 0:
                below: Counter[Place] = Counter()
                for part, times in applied.items():
                    for place, child in _children(self._nodes[part]):
                        self._step()
                        below[place] += times * self._most(child, depth - 1)
                everywhere = below.pop(None, 0)
                found = max(found, everywhere + max(below.values(), default=0))
            self._below[id(schema), depth] = found
        return found

    def _applied(self, schema: Any) -> Counter[int]:
        """Return which subschemas apply to a value that ``schema`` applies to, and how often each."""
        found = self._here.get(id(schema))
        if found is None:
            if id(schema) in self._busy:
                raise SchemaTooCostlyError("a part of it refers to itself for the same value")
            self._busy.add(id(schema))
            self._nodes[id(schema)] = schema
            found = Counter({id(schema): 1})
            for part in self._same_place(schema):
                for inner, times in self._applied(part).items():
                    self._step()
                    found[inner] += times
            if isinstance(schema, dict) and any(key.startswith("unevaluated") for key in schema):
                found = Counter(
                    {inner: 2 * times for inner, times in found.items()}
                )  # what was evaluated is asked again
            self._busy.discard(id(schema))
            self._here[id(schema)] = found
        return found

    def _reachable(self) -> Iterator[Any]:
        waiting, seen = [self._root], set[int]()
        while waiting:
            schema = waiting.pop()
            if id(schema) not in seen:
                seen.add(id(schema))
                yield schema
                waiting += self._same_place(schema)
                waiting += [child for _, child in _children(schema)]

    def _same_place(self, schema: Any) -> list[Any]:
        if not isinstance(schema, dict):
            return []
        if schema is not self._root and isinstance(schema.get("$id"), str):
            raise SchemaTooCostlyError("$id may stand at its root only")
        parts = [schema[key] for key in _HERE_ONE if key in schema]
        parts += [part for key in _HERE_MANY for part in _list(schema.get(key))]
        parts += [part for key in _HERE_NAMED for part in _dict(schema.get(key)).values()]
        parts += [self._target(schema[key]) for key in _REFERENCES if isinstance(schema.get(key), str)]
        return [part for part in parts if isinstance(part, dict)]

    def _target(self, reference: str) -> Any:
        """Return what a reference points to; the validator itself says so if that is nothing."""
        place = reference.removeprefix("#")
        if place == reference:
            raise SchemaTooCostlyError(f"a $ref may only point into the schema itself, not to {reference[:80]!r}")
        if not place.startswith("/"):
            return self._anchors.get(place) if place else self._root
        found = self._root
        for step in place[1:].split("/"):
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = _dict(found).get(key)
        return found

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SchemaTooCostlyError("it is too complex")


def _children(schema: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the subschemas that apply to parts of the value, each with the part."""
    schema = _dict(schema)
    for name, child in _dict(schema.get("properties")).items():
        yield ("property", name), child
    for child in _dict(schema.get("patternProperties")).values():
        yield None, child
    for key in _EVERY:
        if isinstance(schema.get(key), dict):
            yield None, schema[key]
    for key in _LISTS:
        for number, child in enumerate(_list(schema.get(key))):
            yield ("item", number), child


def _anchors(schema: Any) -> Iterator[tuple[str, Any]]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for key in ("$anchor", "$dynamicAnchor", "$id"):
                if isinstance(part.get(key), str):
                    yield part[key].removeprefix("#"), part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
