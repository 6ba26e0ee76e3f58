"""What a task function is called with: the payload, by the function's parameters and their annotations."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any, Final

from windlass import protocol
from windlass.errors import SerializationError
from windlass.serialization import EMPTY, annotations_of, decode, encode
from windlass.tasks import Task
from windlass.transport import Transport

_PARAMETERS: Final["weakref.WeakKeyDictionary[Callable[..., Any], tuple[inspect.Parameter, ...]]"] = (
    weakref.WeakKeyDictionary()
)


class PayloadInvalidError(Exception):
    """The payload does not fit the task's parameters."""


def arguments_of(
    task: Task[Any, Any], attempt: protocol.ClaimedAttempt, transport: Transport
) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and named arguments of the task function for an attempt's payload.

    Raises:
        PayloadInvalidError: It does not fit; the text names the place.
        ProtocolError: It is a large value, and the API refused to give it.
    """
    data = bytes(attempt.payload) or b"null"
    if attempt.payload_ref is not None:
        data = transport.get_blob(attempt.payload_ref)
    try:
        return _bind(task, data)
    except SerializationError as error:
        raise PayloadInvalidError(str(error)) from None


def _parameters(function: Callable[..., Any]) -> "tuple[inspect.Parameter, ...]":
    """Return what a payload may fill. Found out once: where runs share a process it was a fifth of what one costs."""
    found = _PARAMETERS.get(function)
    if found is None:
        parameters = annotations_of(function)[0].parameters.values()
        found = _PARAMETERS[function] = tuple(p for p in parameters if p.kind is not p.VAR_POSITIONAL)
    return found


def _bind(task: Task[Any, Any], data: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that a payload stands for: one parameter gets it whole, several get its fields."""
    parameters = list(_parameters(task.function))
    if not parameters:
        return [], {}
    rest = parameters.pop() if parameters[-1].kind is inspect.Parameter.VAR_KEYWORD else None
    if len(parameters) == 1 and rest is None:
        only = parameters[0]
        if data == b"null" and only.default is not EMPTY:
            return [], {}
        value = decode(data, only.annotation, what="payload")
        return ([], {only.name: value}) if only.kind is only.KEYWORD_ONLY else ([value], {})
    fields = {} if data == b"null" else decode(data, dict, what="payload")
    known = {p.name: p for p in parameters}
    missing = [repr(n) for n, p in known.items() if n not in fields and p.default is EMPTY]
    unknown = [repr(n) for n in fields if n not in known and rest is None]
    problems = [f"it has no {', '.join(missing)}"] * bool(missing)
    problems += [f"nothing takes its {', '.join(unknown)}"] * bool(unknown)
    if problems:
        raise SerializationError(
            f"payload: {' and '.join(problems)}; the parameters of {task.name} are {', '.join(known)}."
        )

    def annotation(name: str) -> Any:
        return known[name].annotation if name in known else EMPTY

    return [], {
        name: decode(encode(value, what="payload"), annotation(name), what=f"payload.{name}")
        for name, value in fields.items()
    }
