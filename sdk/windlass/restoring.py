"""Exceptions of failed steps, as JSON and back: a later attempt meets the same one.

A failed step is history like a finished one: the code may have gone another way because of it. So a later attempt must
meet the same error. Nothing is pickled: an exception is its class, its ``args`` and its attributes, as JSON, and is
made again without calling code of its own.
"""

import contextlib
import json
import math
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from windlass import protocol
from windlass.errors import StepFailedError
from windlass.failures import in_words
from windlass.reruns import MARK

_LONGEST_TEXT: Final = 4096
"""Characters of one text in an exception: a cut one says more than none."""
_LARGEST: Final = 16 * 1024
"""Bytes of JSON that one exception may have; attributes beyond are left out."""
_DEEPEST: Final = 8
_CHAIN: Final = 5
"""Causes of causes that are kept."""
_MEMBERS: Final = 50
"""Members of a group that are kept."""
_TAG: Final = "$type"


def restore_of(error: BaseException) -> protocol.Restore | None:
    """Return what an exception is made of; None for one whose class nobody could find again."""
    try:
        return _restore_of(error, _CHAIN)
    except Exception:  # attributes of users may be anything; the error itself matters more than how it is kept
        return None


def exception_of(failure: protocol.Failure) -> BaseException:
    """Return the exception that a failure tells of: of the same class where that can be, else a StepFailedError."""
    if failure.restore is not None:
        try:
            return _made(failure.restore)
        except Exception:  # noqa: S110 - a class that is gone or has another form: the next line says what is known
            pass
    return StepFailedError(failure.type, failure.message)


def _restore_of(error: BaseException, depth: int) -> protocol.Restore | None:
    found = _importable(type(error))
    if found is None:
        return None
    told = protocol.Restore(class_=found)
    # Only OSError keeps more than `args` has, and says so in what it would be pickled as.
    args = cast("tuple[Any, ...]", error.__reduce__()[1]) if isinstance(error, OSError) else error.args
    if isinstance(error, BaseExceptionGroup):
        args = (error.message,)
        told.exceptions = [_nested(inner, depth - 1) for inner in error.exceptions[:_MEMBERS]]
    if error.__cause__ is not None and depth > 0:
        told.cause = _nested(error.__cause__, depth - 1)
    told.args, size = _dump([_or_words(value) for value in args]), 0
    attributes = {}
    for name, value in vars(error).items():
        if name == MARK:
            continue
        try:
            plain = _plain(value, _DEEPEST)
        except TypeError:
            continue  # a response, a lock: nothing that another process could have
        size += len(json.dumps(plain))
        if size + len(bytes(told.args)) <= _LARGEST:
            attributes[name] = plain
    told.attributes = _dump(attributes)
    return told


def _nested(error: BaseException, depth: int) -> protocol.Failure:
    failure = in_words(error)
    failure.restore = _restore_of(error, depth) if depth > 0 else None
    return failure


def _importable(kind: type) -> str | None:
    """Return the name of a class, or of its nearest base, that another process finds by that name."""
    for base in kind.__mro__:
        if base in (Exception, BaseException) and base is not kind:
            return None  # too little to go by: a StepFailedError says more
        name = f"{base.__module__}:{base.__qualname__}"
        try:
            if _class_of(name) is base:
                return name
        except Exception:  # noqa: S112 - made inside a function, or at run time
            continue
    return None


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        import importlib

        found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _class_of(name: str) -> type[BaseException]:
    found = _find(name)
    if not isinstance(found, type) or not issubclass(found, BaseException):
        raise TypeError(f"{name} is no exception")
    return found


def _made(told: protocol.Restore) -> BaseException:
    kind = _class_of(told.class_)
    args: tuple[Any, ...] = tuple(_value(json.loads(bytes(told.args))))
    if issubclass(kind, BaseExceptionGroup):
        args = (*args, [exception_of(inner) for inner in told.exceptions])
    error = kind.__new__(kind, *args)
    # The built-in base sets its own fields (`errno`, `value`, `code`) from the args. Code of users is not called.
    builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *args)  # type: ignore[misc]  # of a base of this very class
    if not issubclass(kind, OSError | BaseExceptionGroup):
        error.args = args
    error.__dict__.update(_value(json.loads(bytes(told.attributes))))
    if told.cause is not None:
        error.__cause__ = exception_of(told.cause)
    return error


def _or_words(value: Any) -> Any:
    """Return a value's JSON, and for one that has none a text about it: `args` are known by their places."""
    with contextlib.suppress(TypeError):
        plain = _plain(value, _DEEPEST)
        if len(json.dumps(plain)) <= _LARGEST:
            return plain
    try:
        return repr(value)[:200].encode(errors="replace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON that :func:`_value` reads; types that JSON does not have carry their name.

    Raises:
        TypeError: It has none.
    """
    kind = type(value)
    if kind is str:
        return value[:_LONGEST_TEXT]
    if value is None or kind is bool or (kind is int and value.bit_length() < 900):
        return value
    if kind is float and math.isfinite(value):
        return value
    if depth == 0:
        raise TypeError
    if kind is list:
        return [_plain(item, depth - 1) for item in value]
    if kind is dict and _TAG not in value and all(type(key) is str for key in value):
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    return _tagged(value, depth)


def _tagged(value: Any, depth: int) -> dict[str, Any]:
    kind = type(value)
    if kind is bytes:
        return {_TAG: "bytes", "of": value[:_LONGEST_TEXT].hex()}
    if kind is tuple:
        return {_TAG: "tuple", "of": [_plain(item, depth - 1) for item in value]}
    if isinstance(value, Enum) and "<" not in kind.__qualname__:
        return {_TAG: "enum", "of": f"{kind.__module__}:{kind.__qualname__}", "name": value.name}
    if kind is timedelta:
        return {_TAG: "timedelta", "of": [value.days, value.seconds, value.microseconds]}
    if kind in _BY_TEXT:
        return {_TAG: kind.__name__, "of": value.isoformat() if isinstance(value, date) else str(value)}
    raise TypeError


_BY_TEXT: Final[dict[type, Any]] = {
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    Decimal: Decimal,
    UUID: UUID,
}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    match plain.get(_TAG):
        case None:
            return {key: _value(item) for key, item in plain.items()}
        case "tuple":
            return tuple(_value(plain["of"]))
        case "timedelta":
            return timedelta(*plain["of"])
        case "enum":
            return _find(plain["of"])[plain["name"]]
        case "bytes":
            return bytes.fromhex(plain["of"])
        case name:
            return next(read(plain["of"]) for kind, read in _BY_TEXT.items() if kind.__name__ == name)


def _dump(plain: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(plain, separators=(",", ":"), allow_nan=False).encode())
