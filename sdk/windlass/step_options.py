"""The options of ``@step``: refused where the step is written, not at three in the morning when it fails."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from windlass.retry import Retry
from windlass.time_limits import seconds_of
from windlass.tries import Options

_ERROR: Final = "error"
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def checked(
    name: str, function: Callable[..., Any], *, retry: Any, retry_if: Any, timeout: Any, on_error: Any
) -> Options | None:
    """Return the options of a step, or None if it has none.

    Raises:
        TypeError: An option is not what it must be; the text says what to write.
        ValueError: It has a value that makes no sense.
    """
    if retry is None and retry_if is None and timeout is None and on_error is None:
        return None
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"@step(retry={retry!r}) of {name!r}: write Retry(max_attempts=3), for example.")
    if retry_if is not None:
        _check_predicate(name, retry, retry_if)
    return Options(
        retry=retry,
        retry_if=retry_if,
        timeout=None if timeout is None else seconds_of(name, timeout),
        on_error=on_error,
        takes=() if on_error is None else _taken_by(name, function, on_error),
    )


def _check_predicate(name: str, retry: Retry | None, retry_if: Any) -> None:
    if retry is None:
        raise TypeError(
            f"@step(retry_if=...) of {name!r} says which errors are tried again, but not how often: "
            "add retry=Retry(max_attempts=3), for example."
        )
    kinds = retry_if if isinstance(retry_if, tuple) else (retry_if,)
    if all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        written = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"@step(retry_if={written}) of {name!r} wants a function that gets the error: "
            f"write retry_if=lambda error: isinstance(error, {written if len(kinds) == 1 else f'({written})'})."
        )
    if not callable(retry_if) or inspect.iscoroutinefunction(retry_if):
        raise TypeError(
            f"@step(retry_if=...) of {name!r} wants a plain function that gets the error and returns True for those "
            "that are worth another try."
        )
    try:
        inspect.signature(retry_if).bind(None)
    except TypeError:
        raise TypeError(f"@step(retry_if=...) of {name!r}: the function is called with the error alone.") from None


def _taken_by(name: str, function: Callable[..., Any], on_error: Any) -> tuple[str, ...]:
    """Return the names of what ``on_error`` is called with."""
    if not callable(on_error):
        raise TypeError(f"@step(on_error={on_error!r}) of {name!r} wants a function: its value is the step's result.")
    if hasattr(on_error, "is_async"):
        raise TypeError(
            f"@step(on_error=...) of {name!r} is itself a step or a task. It is called inside the step, and steps do "
            "not nest: write a plain function."
        )
    if inspect.iscoroutinefunction(on_error) and not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"@step(on_error=...) of {name!r} is `async def`, and the step is not. Make the step `async def`, or the "
            "fallback a plain function."
        )
    own = [p.name for p in inspect.signature(function).parameters.values()]
    if _ERROR in own:
        raise TypeError(f"Step {name!r} has a parameter 'error', which on_error gets the error by. Rename it.")
    possible = [_ERROR, *own]
    takes = []
    for parameter in inspect.signature(on_error).parameters.values():
        if parameter.kind in _BY_NAME and parameter.name in possible:
            takes.append(parameter.name)
        elif parameter.kind not in _BY_NAME or parameter.default is parameter.empty:
            raise TypeError(
                f"@step(on_error=...) of {name!r} takes {str(parameter)!r}, which nothing is given by. It gets what it "
                f"asks for by name; possible are {', '.join(possible)}."
            )
    return tuple(takes)
