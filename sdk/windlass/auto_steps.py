"""What ``@task(checkpoint="auto")`` makes of ``await f(...)``: a step around whatever ``f`` is, when it is called.

:mod:`windlass.rewriting` puts a call of :func:`auto_step` around ``f``; nothing else of the user's code is changed.
"""

import asyncio
import hashlib
import inspect
import typing
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final

import windlass
from windlass import branches
from windlass.context import CurrentRun, active
from windlass.errors import SerializationError, StepError
from windlass.serialization import EMPTY, annotations_of, encode, hash_arguments
from windlass.steps import Step
from windlass.tasks import Task
from windlass.unserializable import fields_of

JOINS: Final[tuple[Any, ...]] = (asyncio.gather, asyncio.wait_for, asyncio.shield)
"""They await what they are given: the calls written in their arguments are the steps, not they."""
STARTS: Final[tuple[Any, ...]] = (asyncio.create_task, asyncio.ensure_future, asyncio.wait, asyncio.as_completed)
"""They work on futures, which come from calls that nobody can see at the ``await``."""

_ANY: Final = inspect.signature(lambda *args, **kwargs: None)  # noqa: ARG005 - only its signature is wanted
_OWNER: Final = inspect.signature(lambda self: None)  # noqa: ARG005 - likewise
_TYPES: Final["weakref.WeakKeyDictionary[Any, tuple[inspect.Signature, Any]]"] = weakref.WeakKeyDictionary()


def auto_step(call: Any, name: str, where: str) -> Any:
    """Return what is called in place of ``call``: a step named ``name``, or ``call`` itself.

    Itself: outside a run; steps, tasks and what Windlass offers, which are in history by themselves; and what cannot be
    called at all, so that Python's own error says so.

    Args:
        call: What the code calls and awaits.
        name: As it is written, with its dots.
        where: File and line of the call.

    Raises:
        StepError: It awaits things that were started elsewhere, which are no steps.
    """
    if any(call is one for one in (*JOINS, *STARTS)):
        raise StepError(
            f"{where}: {name}() was not known when the task was imported, so what it awaits is no step. Import asyncio "
            "at the top of the module, and write the calls in its arguments: gather(f(x), g(y))."
        )
    if (active() is None and branches.current() is None) or _has_history(call) or not callable(call):
        return call
    if call is asyncio.to_thread:
        return lambda function, /, *args, **kwargs: AutoStep(function, name, where, thread=True)(*args, **kwargs)
    return AutoStep(call, name, where)


def _has_history(call: Any) -> bool:
    """Return whether a call is in history by itself, or makes steps where it is called."""
    if isinstance(call, Step | Task) or isinstance(getattr(call, "__self__", None), Step | Task | CurrentRun):
        return True
    name = getattr(call, "__name__", None)
    return name in windlass.__all__ and getattr(windlass, name) is call


class AutoStep(Step[..., Any]):
    """A step of something that is called.

    Args:
        call: What is called; what it returns is awaited.
        name: Of the step.
        where: File and line of the call, for errors.
        thread: It is a synchronous function, which is called in a thread.
    """

    def __init__(self, call: Callable[..., Any], name: str, where: str, *, thread: bool = False) -> None:
        async def body(*args: Any, **kwargs: Any) -> Any:
            try:
                made: Awaitable[Any] = asyncio.to_thread(call, *args, **kwargs) if thread else call(*args, **kwargs)
                return await made
            except StepError as error:
                raise StepError(f"{error} {self._hint}") from error

        super().__init__(body, name)
        self._call = call
        self._thread = thread
        self._hint = (
            f"({where}: {name!r} is a step by checkpoint='auto'. To save it in another way, "
            "call a function of your own with @step there.)"
        )

    @property
    def types(self) -> tuple[inspect.Signature, Any]:
        """Of what is called. Kept for functions: most steps are called again."""
        if not inspect.isfunction(self._call):
            return self._types()
        found = _TYPES.get(self._call)
        if found is None:
            found = _TYPES[self._call] = self._types()
        return found

    def _types(self) -> tuple[inspect.Signature, Any]:
        try:
            signature, returned = annotations_of(self._call)
        except (TypeError, ValueError):  # of a class of C, for example
            return _ANY, EMPTY
        if self._thread or _is_async(self._call):
            return signature, returned
        return signature, _awaited(returned)

    def _hashed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        try:
            hashed = super()._hashed(args, kwargs)
        except SerializationError as error:
            raise SerializationError(f"{error} {self._hint}") from None
        owner = getattr(self._call, "__self__", None)
        if owner is None or not fields_of(owner):
            return hashed
        try:  # a method of data: another object would be another call
            own = hash_arguments(_OWNER, self.name, (owner,), {})
        except SerializationError:
            return hashed
        return hashlib.sha256(f"{own}{hashed}".encode()).hexdigest()[:16]

    def _encoded(self, result: Any, key: str) -> bytes:
        try:
            return encode(result, what=f"result of step {key!r}")
        except SerializationError as error:
            raise SerializationError(f"{error} {self._hint}") from None


def _is_async(call: Any) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004 - its method is meant


def _awaited(annotation: Any) -> Any:
    """Return what an awaitable of this annotation gives: most do not say."""
    origin, given = typing.get_origin(annotation), typing.get_args(annotation)
    return given[-1] if isinstance(origin, type) and issubclass(origin, Awaitable) and given else EMPTY
