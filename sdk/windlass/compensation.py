"""``@step(compensate=…)``: what a step declares that undoes it, and the arguments that are saved for that.

What is saved is values, found again by names: the process that undoes a step is another one, perhaps days later.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from windlass.errors import PermanentError, SerializationError, StepError, ValueTooLargeError
from windlass.protocol import INLINE_LIMIT
from windlass.serialization import EMPTY, decode, encode

if TYPE_CHECKING:
    from windlass.steps import Step
    from windlass.tries import Options

RESULT: Final = "result"
"""Name of the parameter that gets what the step returned."""
PREFIX: Final = "compensate/"
"""Of the keys of compensations. No key of a step begins so: a path has numbers only."""
_LONGEST_KEY: Final = 600
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

_declared: dict[tuple[str, str], "Compensation"] = {}


class CompensationError(PermanentError):
    """A step cannot be undone: the code has changed since it was saved. Another attempt would find the same."""


class Saved(msgspec.Struct):
    """What is saved with a step."""

    module: str
    step: str
    arguments: dict[str, msgspec.Raw]


class Compensation:
    """The compensation of one step.

    Args:
        step: The step, which has its name and function already.
        function: What undoes it: a function, or a step, whose function is called with the step's own options.

    Raises:
        TypeError: It can never be called with what a step leaves behind, or not be found again.
    """

    def __init__(self, step: "Step[Any, Any]", function: Any) -> None:
        self._step = step
        self.function: Callable[..., Any] = _plain(step, function)
        self._given = function
        self.wanted = _wanted(step, self.function)
        _declare(step, self)

    def save(self, key: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the JSON of what will be needed, before the step runs.

        Raises:
            ValueTooLargeError: No row keeps so much.
            SerializationError: An argument cannot become JSON.
        """
        name = self._step.name
        if len(PREFIX + key) > _LONGEST_KEY:
            raise StepError(f"Step {name!r} lies too deep to have a compensation: its key has {len(key)} characters.")
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {
            wanted: msgspec.Raw(encode(bound.arguments[wanted], what=f"argument {wanted!r} of step {name!r}"))
            for wanted in self.wanted
            if wanted != RESULT
        }
        data = msgspec.json.encode(Saved(self._step.function.__module__, name, arguments))
        if len(data) > INLINE_LIMIT:
            raise ValueTooLargeError(
                f"Step {name!r} saves {', '.join(arguments)} for its compensation {self.function.__name__!r}: "
                f"{len(data)} bytes, and {INLINE_LIMIT} is the most. Pass an id instead of the whole value."
            )
        return data

    def arguments(self, saved: Saved, types: tuple[inspect.Signature, Any], result: Callable[[], bytes]) -> Any:
        """Return the named arguments to call the compensation with.

        Args:
            saved: What was saved with the step.
            types: The step's signature and return annotation, as it is now.
            result: Fetches the JSON of the step's result; called only if it is wanted.

        Raises:
            CompensationError: What was saved does not fit the code any more.
        """
        signature, returns = types
        values: dict[str, Any] = {}
        for name in self.wanted:
            what = f"what step {saved.step!r} saved as {name!r}"
            if name != RESULT and name not in saved.arguments:
                raise CompensationError(
                    f"{self.function.__name__}() wants {name!r}, which step {saved.step!r} did not save: the code has "
                    "changed since. Undo the step by hand, or give the parameter a default."
                )
            try:
                if name == RESULT:
                    values[name] = decode(result(), returns, what=what)
                else:
                    values[name] = decode(bytes(saved.arguments[name]), _type_of(signature, name), what=what)
            except SerializationError as error:
                raise CompensationError(str(error)) from None
        return values

    @property
    def options(self) -> "Options | None":
        """How often it is tried and the like, where it is a step that says so."""
        return getattr(self._given, "options", None)

    @property
    def protect(self) -> bool:
        """Whether its pod must stay while it runs, where it is a step that says so."""
        return bool(getattr(self._given, "protect", False))

    @property
    def types(self) -> tuple[inspect.Signature, Any]:
        """The step's signature and return annotation."""
        return self._step.types


def find(saved: Saved) -> Compensation:
    """Return the compensation of a step, from the code as it is now.

    Raises:
        CompensationError: The module has no such step any more, or it has none.
    """
    found = _declared.get((saved.module, saved.step))
    if found is None:
        raise CompensationError(
            f"Step {saved.step!r} of module {saved.module!r} was saved with a compensation, and the module has no step "
            "of this name with one any more: the code has changed since. Undo the step by hand."
        )
    return found


def _plain(step: "Step[Any, Any]", function: Any) -> Callable[..., Any]:
    from windlass.steps import Step

    plain = function.function if isinstance(function, Step) else function
    if not inspect.isfunction(plain):
        raise TypeError(
            f"@step(compensate=…) of {step.name!r} wants a function or a step, not {type(function).__name__}."
        )
    return plain


def _wanted(step: "Step[Any, Any]", function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the parameters that a compensation gets, in their order."""
    own = inspect.signature(step.function).parameters
    given = [name for name, parameter in own.items() if parameter.kind not in _VARIADIC]
    says = f"The compensation {function.__name__!r} of step {step.name!r}"
    wanted = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in _VARIADIC or parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{says} cannot take {str(parameter)!r}: each of its parameters is given by its name.")
        if name == RESULT and RESULT in own:
            raise TypeError(f"{says} takes 'result', which is also a parameter of the step: rename that one.")
        if name == RESULT or name in given:
            wanted.append(name)
        elif parameter.default is EMPTY:
            names = ", ".join([RESULT, *given])
            raise TypeError(
                f"{says} takes {name!r}, which nobody gives it. Its parameters are matched by name with the step's "
                f"result and the step's own parameters: {names}."
            )
    return tuple(wanted)


def _declare(step: "Step[Any, Any]", compensation: Compensation) -> None:
    module, place = step.function.__module__, step.function.__qualname__
    if "." in place:
        raise TypeError(
            f"Step {step.name!r} has a compensation and is defined inside {place.rpartition('.')[0]!r}, where another "
            "process does not find it. Define it at the top level of its module."
        )
    before = _declared.get((module, step.name))
    if before is not None and before._step.function.__qualname__ != place:  # noqa: SLF001 - one of us
        raise TypeError(
            f"Module {module!r} has two steps named {step.name!r} with a compensation. Give one of them another name: "
            '@step(name="…").'
        )
    _declared[module, step.name] = compensation


def _type_of(signature: inspect.Signature, name: str) -> Any:
    parameter = signature.parameters.get(name)
    return EMPTY if parameter is None else parameter.annotation


def read(data: bytes) -> Saved:
    """Return what was saved with a step.

    Raises:
        CompensationError: It was saved by another release of the SDK, and cannot be read.
    """
    try:
        return msgspec.json.decode(data, type=Saved)
    except msgspec.DecodeError as error:
        raise CompensationError(f"What was saved to undo the step cannot be read: {error}") from None
