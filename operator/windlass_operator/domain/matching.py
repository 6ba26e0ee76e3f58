"""Which events a wait is for: containment of JSON values. Pure.

A wait gives a value that the event's payload has to contain. Of objects, every wanted field has to be there and
contain what is wanted of it; of arrays, every wanted element has to be contained in some element; anything else has to
be equal.
``true`` is no number, and ``7`` is the number ``7.0``.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

MOST_WANTED: Final = 100
"""Values in a match, itself included. Each may be compared with every value of a payload, which has up to 64 KiB."""


def contains(value: Any, wanted: Any) -> bool:
    """Whether a JSON value contains what is wanted; see the module."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            name in value and contains(value[name], inner) for name, inner in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(contains(item, inner) for item in value) for inner in wanted)
    return _equal(value, wanted)


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return isinstance(value, str | int | float | None) and value == wanted


def size(wanted: Any) -> int:
    """Return how many values a match has, itself included."""
    if isinstance(wanted, dict):
        return 1 + sum(map(size, wanted.values()))
    return 1 + sum(map(size, wanted)) if isinstance(wanted, list) else 1


def selector(wanted: Any) -> str | None:
    """Return a word that every payload has among its :func:`selectors` which contains ``wanted``; None: there is none.

    It lets the ledger find ten thousand waits for ``{"orderId": 1}``, ``{"orderId": 2}`` … by an index.
    """
    if not isinstance(wanted, dict):
        return None
    return next((_word(name, wanted[name]) for name in sorted(wanted) if _plain(wanted[name])), None)


def selectors(payload: Any) -> list[str]:
    """Return the words by which waits for this payload are found."""
    if not isinstance(payload, Mapping):
        return []
    return [_word(name, value) for name, value in payload.items() if _plain(value)]


def _plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _word(name: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # equal numbers have one word
    return hashlib.sha256(json.dumps([name, value]).encode()).hexdigest()[:16]
