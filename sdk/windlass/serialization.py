"""Values to JSON and back. Plain values never import pydantic: the first line of user code waits for imports."""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from windlass.errors import SerializationError

EMPTY: Final = inspect.Parameter.empty
_DEEPEST: Final = 500
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
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:  # NaN, a cycle, a lone surrogate, too deep
        raise _explain(value, what, error) from None
    except TypeError:
        pass
    problem = _find_problem(value, "", frozenset())
    if problem is not None:
        raise SerializationError(f"The {what} cannot be saved: {problem}")
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants")
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (PydanticSerializationError, ValueError, RecursionError, TypeError) as error:
        raise _explain(value, what, error) from None


def decode(data: bytes, annotation: Any, *, what: str) -> Any:
    """Return the value that ``data`` stands for, as its annotation says.

    Raises:
        SerializationError: It does not fit; the text names the place.
    """
    if annotation is EMPTY or annotation is Any:
        return json.loads(data)
    plain = _PLAIN.get(annotation) if isinstance(annotation, type | None) else None
    if plain is not None:
        value = json.loads(data)
        if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
            name = getattr(annotation, "__name__", str(annotation))
            raise SerializationError(f"The {what} is {_named(value)}, and the code wants {name}.")
        return value
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(annotation).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        raise SerializationError(f"{what}{path}: {first['msg']}") from None


def hash_arguments(signature: inspect.Signature, step: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a hash of the bound arguments: the same however they were passed.

    Raises:
        SerializationError: An argument cannot become JSON; the text names it.
    """
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    digest = hashlib.sha256()
    for name, value in bound.arguments.items():
        data = encode(value, what=f"argument {name!r} of step {step!r}")
        if isinstance(value, dict | set | frozenset) or b"{" in data:
            data = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()
        digest.update(name.encode() + b"\0" + data + b"\0")
    return digest.hexdigest()[:16]


def annotations_of(function: Callable[..., Any]) -> tuple[inspect.Signature, Any]:
    """Return signature and return annotation, with annotations that are text resolved."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, SyntaxError):  # names under TYPE_CHECKING only: then nothing is known of the types
        plain = inspect.signature(function)
        parameters = [p.replace(annotation=EMPTY) for p in plain.parameters.values()]
        signature = plain.replace(parameters=parameters, return_annotation=EMPTY)
    return signature, signature.return_annotation


def _explain(value: Any, what: str, error: BaseException) -> SerializationError:
    problem = _find_problem(value, "", frozenset()) or str(error).splitlines()[0][:200]
    return SerializationError(f"The {what} cannot be saved: {problem}")


def _find_problem(value: Any, path: str, above: frozenset[int]) -> str | None:
    """Return what is wrong with the first offending part, or None if nothing plain is."""
    problem = _own_problem(value, path or "the value itself")
    if problem is not None:
        return problem
    if id(value) in above:
        return f"{path or 'the value itself'} contains itself."
    if len(above) > _DEEPEST:
        return f"{path[:80]}… is nested too deeply."
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple | set | frozenset):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    inside = above | {id(value)}
    return next((found for at, item in items if (found := _find_problem(item, at, inside)) is not None), None)


def _own_problem(value: Any, where: str) -> str | None:
    """Return what is wrong with the value itself, whatever it contains."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is {value}, which JSON does not have."
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return f"{where} has a lone surrogate, which UTF-8 cannot carry."
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{where} is {_named(value)}. Encode it (base64), or store it yourself and pass its key."
    if callable(value) or inspect.isgenerator(value) or inspect.iscoroutine(value):
        return f"{where} is {_named(value)}, which is not data."
    if type(value) is object:
        return f"{where} is {_named(value)}."
    return None


def _named(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"
