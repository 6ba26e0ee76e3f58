"""Which tasks a test's runs can be made of: those that its code can name."""

import inspect
import types
from collections.abc import Iterator
from typing import Any

from windlass.retry import Retry
from windlass.tasks import Task


class Known:
    """Tasks by name: what the test stubs, else what the code of a run's task refers to."""

    def __init__(self) -> None:
        self._found: dict[str, Task[Any, Any]] = {}
        self._stubs: dict[str, Task[Any, Any]] = {}

    def stub(self, name: str, result: Any, raises: BaseException | None) -> Task[Any, Any]:
        """Let something stand in for a task: a function, a value, or an error. It is tried once."""
        function = result if callable(result) and raises is None else _constantly(result, raises)
        if not inspect.isfunction(function):
            function = _calling(function)  # a mock, or a method
        made: Task[Any, Any] = Task(function, name, {"retry": Retry(max_attempts=1)})
        self._stubs[name] = made
        return made

    def add(self, task: Task[Any, Any]) -> list[Task[Any, Any]]:
        """Make a task known, and those that its code refers to; return the ones that are new."""
        new: list[Task[Any, Any]] = []
        left = [task]
        while left:
            one = left.pop()
            if self._found.get(one.name) is one:
                continue
            self._found[one.name] = one
            new.append(one)
            left += [other for other in _named_by(one) if other.name not in self._found]
        return [one for one in new if one.name not in self._stubs]

    def get(self, name: str) -> Task[Any, Any] | None:
        """Return the task of a name, or what stands in for it."""
        return self._stubs.get(name) or self._found.get(name)

    def all(self) -> list[Task[Any, Any]]:
        """Return all of them."""
        return list({**self._found, **self._stubs}.values())


def entrypoint_of(task: Task[Any, Any]) -> str:
    """Return what a Task resource calls it: nothing is loaded by it here."""
    name = task.function.__name__
    return f"{task.function.__module__}:{name if name.isidentifier() else 'stub'}"


def _constantly(result: Any, raises: BaseException | None) -> Any:
    def stub(_: Any) -> Any:
        if raises is not None:
            raise raises
        return result

    return stub


def _calling(call: Any) -> Any:
    def stub(payload: Any) -> Any:
        return call(payload)

    return stub


def _named_by(task: Task[Any, Any]) -> Iterator[Task[Any, Any]]:
    function: Any = task.function
    cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
    values = [*function.__globals__.values(), *(cell.cell_contents for cell in cells)]
    for value in values:
        if isinstance(value, Task):
            yield value
        elif isinstance(value, types.ModuleType):
            yield from (one for one in vars(value).values() if isinstance(one, Task))


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
