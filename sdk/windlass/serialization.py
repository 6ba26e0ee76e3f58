"""Values to JSON and back. Plain values never import pydantic: the first line of user code waits for imports."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from windlass.errors import SerializationError
from windlass.unserializable import DEPTH, explain, fields_of, find_problem, named

EMPTY: Final = inspect.Parameter.empty
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""Kept: to make one costs more than to encode a small value with it."""
_RUN: Final = 150
"""More than 300 digits fill at least one piece of this length, wherever they stand."""
_PLAIN: Final[dict[Any, tuple[type, ...]]] = {
    str: (str,),
    int: (int,),
    float: (float, int),
    bool: (bool,),
    dict: (dict,),
    list: (list,),
    None: (type(None),),
    type(None): (type(None),),
}


def encode(value: Any, *, what: str) -> bytes:
    """Return ``value`` as JSON that every reader accepts.

    Args:
        value: Anything that pydantic can make JSON of: plain values, models, dataclasses, dates, enums, sets.
        what: What it is, for the message: ``result``, ``result of step 'charge'``.

    Raises:
        SerializationError: It cannot be; the text names path and type.
    """
    data = _encode_plain(value, what)
    return _encode_rich(value, what) if data is None else data


def _encode_plain(value: Any, what: str) -> bytes | None:
    """Return the JSON of plain values, None for a value that needs pydantic."""
    try:
        data = _ENCODER.encode(value).encode()
    except (ValueError, RecursionError) as error:  # NaN, a cycle, a lone surrogate, too deep
        raise explain(value, what, error) from None
    except TypeError:
        return None
    if data.count(b"[") + data.count(b"{") > DEPTH:
        _refuse(value, what)  # perhaps deeper than the API takes
    if len(data) > 300 and any(data[at : at + _RUN].isdigit() for at in range(0, len(data), _RUN)):
        _refuse(value, what)  # an integer that most readers cannot hold; in a string it is welcome
    return data


def _encode_rich(value: Any, what: str) -> bytes:
    _refuse(value, what)
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants")
        return _ENCODER.encode(plain).encode()
    except (PydanticSerializationError, ValueError, RecursionError, TypeError) as error:
        raise explain(value, what, error) from None


def _refuse(value: Any, what: str) -> None:
    problem = find_problem(value)
    if problem is not None:
        raise SerializationError(f"The {what} cannot be saved: {problem}")


def decode(data: bytes, annotation: Any, *, what: str) -> Any:
    """Return the value that ``data`` stands for, as its annotation says.

    Raises:
        SerializationError: It does not fit; the text names the place.
    """
    if annotation is EMPTY or annotation is Any:
        return _loads(data, what)
    plain = _PLAIN.get(annotation) if isinstance(annotation, type | None) else None
    if plain is not None:
        value = _loads(data, what)
        if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
            name = getattr(annotation, "__name__", str(annotation))
            raise SerializationError(f"{what}: the code wants {name}, and this is {named(value)}.")
        return _as_float(cast("float", value), what) if annotation is float else value
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(annotation).validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problems[0]["loc"])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SerializationError(f"{what}{path}: {problems[0]['msg']}{more}") from None
    except PydanticUserError:
        raise SerializationError(f"{what}: no JSON can be read as the annotation {annotation!r} asks.") from None


def hash_arguments(signature: inspect.Signature, step: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a hash of the bound arguments: the same however they were passed.

    Raises:
        SerializationError: An argument cannot become JSON; the text names it.
        TypeError: The arguments do not fit the signature.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"Step {step!r} is called with other arguments than it takes: {error}") from None
    bound.apply_defaults()
    digest = hashlib.sha256()
    for name, value in bound.arguments.items():
        what = f"argument {name!r} of step {step!r}"
        # Sets have another order in each process: the next attempt would see other arguments.
        data = _encode_plain(value, what) or _encode_rich(_with_sets_in_order(value, what), what)
        if b"{" in data:
            data = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
        digest.update(name.encode() + b"\0" + data + b"\0")
    return digest.hexdigest()[:16]


def hash_value(value: Any, *, what: str) -> str:
    """Return a hash of a value: the same for what is the same JSON.

    Raises:
        SerializationError: It cannot become JSON; the text names the place.
    """
    data = encode(value, what=what)
    if b"{" in data:
        data = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def annotations_of(function: Callable[..., Any]) -> tuple[inspect.Signature, Any]:
    """Return signature and return annotation, with annotations that are text resolved."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, SyntaxError):  # names under TYPE_CHECKING only: then nothing is known of the types
        plain = inspect.signature(function)
        parameters = [p.replace(annotation=EMPTY) for p in plain.parameters.values()]
        signature = plain.replace(parameters=parameters, return_annotation=EMPTY)
    return signature, signature.return_annotation


def _loads(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode())  # bytes would be searched for a byte order mark first
    except RecursionError:
        raise SerializationError(f"{what}: it is nested too deeply for Python's JSON reader.") from None
    except ValueError as error:  # integers of thousands of digits among them, of which Python makes no int
        raise SerializationError(f"{what}: {str(error).split(';')[0]}.") from None


def _as_float(value: float, what: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise SerializationError(f"{what}: the number is too large for a float.") from None


def _with_sets_in_order(value: Any, what: str) -> Any:
    """Return ``value`` with each set in it as a list in one order; what has no set stays as it is."""
    if isinstance(value, set | frozenset):
        return sorted((_with_sets_in_order(item, what) for item in value), key=lambda item: encode(item, what=what))
    ordered: Any
    if isinstance(value, list | tuple):
        ordered = [_with_sets_in_order(item, what) for item in value]
        same = all(new is old for new, old in zip(ordered, value, strict=True))
    else:
        parts = value if isinstance(value, Mapping) else fields_of(value)
        ordered = {key: _with_sets_in_order(item, what) for key, item in parts.items()}
        same = all(ordered[key] is item for key, item in parts.items())
    return value if same else ordered
