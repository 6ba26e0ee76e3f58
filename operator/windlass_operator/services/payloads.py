"""JSON at the door: what every reader behind us accepts, and what the Task's schema allows."""

import json
from functools import lru_cache
from typing import Any, Final, NoReturn

import jsonschema_rs

from windlass.protocol import INLINE_LIMIT
from windlass_operator.domain.errors import PayloadInvalidError, PayloadTooLargeError

_DEPTH: Final = 200
_DIGITS: Final = 300
"""Longest number accepted. Longer ones are refused by some JSON readers and rounded to infinity by others."""


def parse(text: bytes, *, field: str = "payload") -> Any:
    """Return the JSON value of ``text``, strictly: one meaning for every reader.

    Raises:
        PayloadInvalidError: Not JSON, or JSON that readers disagree about (NaN, duplicate keys, lone surrogates …).
    """
    if _too_deep(text):
        raise PayloadInvalidError(f"{field} is nested deeper than {_DEPTH} levels.", field=field)
    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError:
        raise PayloadInvalidError(f"{field} is not UTF-8.", field=field) from None
    except (ValueError, RecursionError) as error:
        raise PayloadInvalidError(f"{field} is not acceptable JSON: {str(error)[:200]}", field=field) from None


def as_text(value: Any, *, field: str = "payload", limit: int = INLINE_LIMIT) -> str:
    """Return ``value`` as the JSON text that the ledger keeps.

    Raises:
        PayloadInvalidError: The value cannot be written as JSON that every reader accepts.
        PayloadTooLargeError: The text is larger than ``limit`` bytes.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise PayloadInvalidError(f"{field} has a lone surrogate (\\ud800 to \\udfff).", field=field) from None
    except (ValueError, RecursionError) as error:
        raise PayloadInvalidError(f"{field} is not acceptable JSON: {str(error)[:200]}", field=field) from None
    if size > limit:
        raise PayloadTooLargeError(
            f"{field} has {size} bytes; the limit here is {limit}. Put the data into an object store and pass its key.",
            field=field,
        )
    return text


def check(value: Any, schema: dict[str, Any] | None) -> None:
    """Check a payload against the Task's schema.

    Raises:
        PayloadInvalidError: It breaks the schema; the text and ``field`` name the place.
    """
    if schema is None:
        return
    validator = _validator(json.dumps(schema, sort_keys=True))
    error = next(iter(validator.iter_errors(value)), None)
    if error is not None:
        path = "payload" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)
        raise PayloadInvalidError(f"{path}: {error.message[:300]}", field=f"spec.{path}")


def check_schema(schema: dict[str, Any]) -> None:
    """Check that a Task's ``payloadSchema`` is a schema.

    Raises:
        PayloadInvalidError: It is not; the text says why.
    """
    _validator(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    try:
        return jsonschema_rs.validator_for(json.loads(schema))
    except (ValueError, jsonschema_rs.ValidationError) as error:
        text = str(error).splitlines()[0][:300]
        raise PayloadInvalidError(f"payloadSchema is not a JSON schema: {text}", field="spec.payloadSchema") from None


def _too_deep(text: bytes) -> bool:
    depth = deepest = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > _DEPTH:
                return True
        elif byte in (0x5D, 0x7D):
            depth -= 1
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]  # add is the memory
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer has {len(text)} digits; the limit is {_DIGITS}")
    return int(text)
