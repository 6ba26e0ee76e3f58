"""Step keys: the path of the branch, the step's name, and its count within the branch.

A branch is a line of execution within a run: the task function itself, each asyncio task it starts, each thread that it
starts through us. Its path is the order in which its parent started it, so a key does not depend on how fast anything
ran: ordinals alone would give branch b's result to branch a after a retry with another timing.
"""

import threading
from collections import Counter
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final

from windlass.errors import StepError

if TYPE_CHECKING:
    import asyncio

_CURRENT: Final[ContextVar["Branch"]] = ContextVar("windlass_branch")


class Branch:
    """One line of execution.

    Args:
        path: Numbers from the root; empty for the task function itself.
        inside_step: Key of the step whose body this is, if it is one.
    """

    def __init__(self, path: tuple[int, ...] = (), *, inside_step: str | None = None) -> None:
        self.path = path
        self.inside_step = inside_step
        self._counts: Counter[str] = Counter()
        self._children = 0
        self._lock = threading.Lock()
        self._thread: int | None = None

    def key(self, name: str) -> str:
        """Return the key of the next step with this name.

        Raises:
            StepError: Called from another thread than the branch's own, whose order nobody knows.
        """
        me = threading.get_ident()
        if self._thread is None:
            self._thread = me
        if self._thread != me:
            raise StepError(
                f"Step {name!r} is called from a thread that Windlass does not know, nor its place in the run. "
                "Start threads with windlass.to_thread() or windlass.ThreadPoolExecutor."
            )
        self._counts[name] += 1
        count = self._counts[name]
        local = name if count == 1 else f"{name}#{count}"
        return f"{'.'.join(map(str, self.path))}/{local}" if self.path else local

    def child(self) -> "Branch":
        """Return the branch that this one starts now."""
        with self._lock:
            number = self._children
            self._children += 1
        return Branch((*self.path, number), inside_step=self.inside_step)


def current() -> Branch | None:
    """Return the branch of the calling code, or None where there is none."""
    return _CURRENT.get(None)


def enter(branch: Branch) -> Any:
    """Make ``branch`` the current one; give what this returns to :func:`leave`."""
    return _CURRENT.set(branch)


def leave(token: Any) -> None:
    """Undo :func:`enter`."""
    _CURRENT.reset(token)


def child_context() -> Context:
    """Return a copy of the calling context in which a new branch is current."""
    context = copy_context()
    parent = current()
    if parent is not None:
        context.run(_CURRENT.set, parent.child())
    return context


def task_factory(loop: "asyncio.AbstractEventLoop", coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    """Make asyncio tasks that are branches, whoever makes them: gather, TaskGroup, create_task."""
    import asyncio

    context = options.pop("context", None)
    if context is None:
        context = child_context()
    elif (parent := context.get(_CURRENT)) is not None:
        context.run(_CURRENT.set, parent.child())
    return asyncio.Task(coroutine, loop=loop, context=context, **options)
