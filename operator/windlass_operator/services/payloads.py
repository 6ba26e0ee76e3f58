"""JSON at the door: what every reader behind us accepts, and what the Task's schema allows.

The rules are the same wherever a payload comes from. A REST body is read with :func:`parse`. A Run resource arrives
decoded, by the API server's rules and then by Python's; :func:`as_text` writes it out again and holds it to the same
rules.
"""

import asyncio
import json
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeVar

import jsonschema_rs

from windlass.protocol import DEPTH, DIGITS, INLINE_LIMIT
from windlass_operator.domain.errors import PayloadInvalidError, PayloadTooLargeError
from windlass_operator.domain.schema_cost import SchemaCost, SchemaTooCostlyError

CONTAINERS: Final = 250_000
"""Objects and arrays in one payload. Each takes a hundred bytes and more: 8 MiB of ``[],`` would take 200 MiB."""

T = TypeVar("T")
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKETS: Final = b"[]{}"
_OTHERS: Final = bytes(sorted(set(range(256)) - set(_BRACKETS)))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse(text: bytes, *, field: str = "payload", depth: int = DEPTH) -> Any:
    """Return the JSON value of ``text``, strictly: one meaning for every reader.

    Args:
        text: JSON in UTF-8.
        field: What it is, for the error.
        depth: Levels of objects and arrays that it may have.

    Raises:
        PayloadInvalidError: Not JSON, or JSON that readers disagree about (NaN, duplicate keys, lone surrogates …).
    """
    _check_shape(text, field, depth)
    try:
        value = _read(text.decode())
    except UnicodeDecodeError as error:
        raise _invalid(field, f"not UTF-8 at byte {error.start}", "Encode the text as UTF-8.") from None
    except _RefusedError as error:
        raise _invalid(field, error.what, error.hint) from None
    except (ValueError, RecursionError) as error:
        raise _invalid(field, f"not JSON: {str(error)[:200]}", "Check it with a JSON linter.") from None
    if b"\\u" in text:
        _refuse_surrogates(value, field)
    return value


def as_text(value: Any, *, field: str = "payload", limit: int = INLINE_LIMIT) -> str:
    """Return ``value`` as the JSON text that the ledger keeps.

    Raises:
        PayloadInvalidError: The value breaks a rule of :func:`parse`.
        PayloadTooLargeError: The text is larger than ``limit`` bytes.
    """
    text = encoded(value, field=field, limit=limit)
    parse(text, field=field)
    return text.decode()


def encoded(value: Any, *, field: str = "payload", limit: int = INLINE_LIMIT) -> bytes:
    """Return a value that :func:`parse` returned, or a part of one, as the JSON that the ledger keeps.

    Raises:
        PayloadInvalidError: The value is no JSON.
        PayloadTooLargeError: The text is larger than ``limit`` bytes.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise _invalid(field, f"nested deeper than {DEPTH} levels", _FLATTEN) from None
    except ValueError as error:
        said = str(error)
        if "digits" in said:
            raise _invalid(field, f"not acceptable: {_TOO_LONG}", _AS_STRING) from None
        raise _invalid(field, f"not JSON: {said[:200]}", "Write null or a string instead.") from None
    _refuse_surrogates(text, field)
    data = text.encode()
    if len(data) > limit:
        hint = "Trigger the run through the API or the SDK, which take up to 8 MiB." if limit <= INLINE_LIMIT else None
        raise PayloadTooLargeError(
            f"{field} has {len(data)} bytes; the limit here is {limit}.",
            field=field,
            hint=hint or "Put the data into an object store and pass its key.",
        )
    return data


def check_value(data: bytes, *, field: str) -> None:
    """Hold a value that a runner sends to the same rules, so that everybody can read it back.

    Raises:
        PayloadInvalidError: It breaks a rule of :func:`parse`.
        PayloadTooLargeError: It is too large for a row.
    """
    if len(data) > INLINE_LIMIT:
        raise PayloadTooLargeError(
            f"{field} has {len(data)} bytes; the limit here is {INLINE_LIMIT}.",
            field=field,
            hint="Upload it with PUT blobs/{sha256} and send its reference.",
        )
    parse(data, field=field)


class LargeValues:
    """Reads and writes large values beside the event loop, one at a time: heartbeats are served meanwhile."""

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)

    async def run(self, work: Callable[[], T], *, size: int) -> T:
        """Return what ``work`` returns. What is at most 64 KiB is done at once."""
        if size <= INLINE_LIMIT:
            return work()
        async with self._one:
            return await asyncio.to_thread(work)


def check(value: Any, schema: dict[str, Any] | None, *, field: str = "spec.payload") -> None:
    """Check a payload against the Task's schema.

    Raises:
        PayloadInvalidError: It breaks the schema; the text and ``field`` name the place.
    """
    if schema is None:
        return
    validator, cost = _validator_of(schema)
    work = _work(value, cost, field)
    if validator.is_valid(value):
        return
    if work > _EXPLAINED and cost.alternatives:  # all errors of all of them are collected before the first is told
        raise PayloadInvalidError(
            "payload does not fit its schema; it is too large to say where.", field=field, hint=_HINT
        )
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        inside = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)[:300]
        raise PayloadInvalidError(
            f"payload{inside}: {error.message[:300]}",
            field=field + inside,
            hint=_HINT,
        ) from None


def _work(value: Any, cost: SchemaCost, field: str) -> int:
    """Return how many checks a schema makes of a value at most: it is refused before it is checked for too long."""
    places, depth = _extent(value)
    try:
        work = places * cost.at_one_place(depth)
    except SchemaTooCostlyError as error:
        raise _too_costly(str(error)) from None
    if work > _MOST_WORK:
        raise PayloadInvalidError(
            f"{field} takes too long to check: the Task's payloadSchema may make {work:.1g} checks of its {places} "
            f"values, {depth} levels deep; the limit is {_MOST_WORK}.",
            field=field,
            hint="Make the payload smaller or flatter, or its schema simpler: alternatives that refer to themselves "
            "multiply with each level.",
        )
    return work


def _extent(value: Any) -> tuple[int, int]:
    """Return how many values there are in a value, itself included, and how many levels."""
    places, depth, level = 1, 0, [value]
    while level:
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                below += part.values()
            elif isinstance(part, list):
                below += part
        if below:
            depth += 1
        places += len(below)
        level = [part for part in below if isinstance(part, dict | list)]
    return places, depth


def check_schema(schema: dict[str, Any]) -> None:
    """Check that a Task's ``payloadSchema`` is a schema.

    Raises:
        PayloadInvalidError: It is not; the text says why.
    """
    _validator(json.dumps(schema, sort_keys=True))


def _validator_of(schema: dict[str, Any]) -> tuple[Any, SchemaCost]:
    """Return the same for a schema that may be the very object of a moment ago, which needs no writing out."""
    known = _same_objects.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    found = _validator(json.dumps(schema, sort_keys=True))
    if len(_same_objects) >= _SCHEMAS:
        _same_objects.clear()
    _same_objects[id(schema)] = (schema, found)
    return found


@lru_cache(maxsize=256)
def _validator(schema: str) -> tuple[Any, SchemaCost]:
    parsed = json.loads(schema)
    try:
        # Patterns: what has no look-around and no back-reference takes linear time; the rest may try again so often.
        patterns = jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS)
        return jsonschema_rs.validator_for(parsed, retriever=_retrieve_nothing, pattern_options=patterns), SchemaCost(
            parsed
        )
    except SchemaTooCostlyError as error:
        raise _too_costly(str(error)) from None
    except (ValueError, jsonschema_rs.ValidationError) as error:
        text = str(error).splitlines()[0][:300]
        raise PayloadInvalidError(
            f"payloadSchema is not a JSON schema: {text}",
            field="spec.payloadSchema",
            hint="Correct the Task; `$ref` may point to its own `$defs` only.",
        ) from None


def _retrieve_nothing(_: str) -> NoReturn:
    """A schema is a user's text: by itself the library would fetch URLs and read files with this process's rights."""
    raise ValueError("a $ref may only point into the schema itself")


def _too_costly(why: str) -> PayloadInvalidError:
    return PayloadInvalidError(
        f"payloadSchema cannot be checked in bounded time: {why}.",
        field="spec.payloadSchema",
        hint="Correct the Task: write what is referred to from many places fewer times, or check it in the task.",
    )


_SCHEMAS: Final = 256
_same_objects: dict[int, tuple[dict[str, Any], tuple[Any, SchemaCost]]] = {}
"""By identity. Each keeps its schema, so that no other object gets its identity."""
_HINT: Final = "The Task's spec.payloadSchema says what it takes."
_MOST_WORK: Final = 100_000_000
"""Checks of one payload at most, about 2 s."""
_EXPLAINED: Final = 20_000
"""Checks up to which a refusal names the place."""
_BACKTRACKS: Final = 100_000
_TOO_LONG: Final = f"an integer has more than {DIGITS} digits"
_FLATTEN: Final = "Flatten it, or pass the deep part as a string."
_AS_STRING: Final = "Pass the number as a string."


class _RefusedError(Exception):
    """A hook of the JSON reader refuses a part. Not a ValueError: the reader would take it for a syntax error."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = f"not acceptable: {what}", hint


def _invalid(field: str, what: str, hint: str) -> PayloadInvalidError:
    return PayloadInvalidError(f"{field} is {what}.", field=field, hint=hint)


def _check_shape(text: bytes, field: str, depth: int) -> None:
    """Refuse what is too much for a reader, before one sees it: readers recurse, and build what they are told to."""
    if text.count(b"[") + text.count(b"{") <= depth:
        return
    brackets = _STRINGS.sub(b"", text).translate(None, _OTHERS)
    if brackets.count(b"[") + brackets.count(b"{") > CONTAINERS:
        raise _invalid(field, f"more than {CONTAINERS} objects and arrays", "Put the data into an object store.")
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth:
        raise _invalid(field, f"nested deeper than {DEPTH} levels", _FLATTEN)


def _refuse_surrogates(value: Any, field: str) -> None:
    """Refuse what UTF-8 cannot carry, wherever it stands."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x}"
        raise _invalid(
            field,
            f"not acceptable: it has a lone surrogate ({found})",
            "Such a character is half of a pair; send the whole character, or the bytes as base64.",
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]  # add is the memory
        shown = twice[:60].encode("ascii", "backslashreplace").decode()
        raise _RefusedError(f"the key {shown!r} stands twice in one object", "Readers differ in which one they take.")
    return value


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not JSON", "Write null or a string instead.")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _RefusedError(f"the number {text[:40]} is too large for a double", _AS_STRING)
    return value


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise _RefusedError(_TOO_LONG, _AS_STRING)
    return int(text)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
)


def _read(text: str) -> Any:
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
    return _DECODER.decode(text)
