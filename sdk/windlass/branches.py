"""Step keys: the path of the branch, the step's name, and its count within the branch.

A branch is a line of execution within a run: the task function itself, each asyncio task it starts, each thread that it
starts through us. Its path is the order in which its parent started it, so a key does not depend on how fast anything
ran: ordinals alone would give branch b's result to branch a after a retry with another timing.
"""

import itertools
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from windlass.errors import StepError

if TYPE_CHECKING:
    import asyncio

    from windlass.waits import Blocking

R = TypeVar("R")

_THREADS: Final["set[Branch]"] = set()
_OF_TASK: Final["weakref.WeakKeyDictionary[Any, Branch]"] = weakref.WeakKeyDictionary()

_CURRENT: Final[ContextVar["Branch"]] = ContextVar("windlass_branch")

tick: Final = itertools.count(1).__next__
"""Numbers what happens in this process, over all branches."""


class Branch:
    """One line of execution.

    Args:
        path: Numbers from the root; empty for the task function itself.
        inside_step: Key of the step whose body this is, if it is one.
        parent: The branch that started it.

    Attributes:
        acted: Tick at which it last called a step or started a branch.
        task: What runs it, in asynchronous code.
        error: What ended it, if it is a thread.
        watched: It is known whether somebody asks how it ended, by ``seen``.
        seen: Tick at which somebody was told of its error.
        ended: Of the run's first branch: the task function has ended. What the loop starts to close is no branch.
    """

    def __init__(
        self, path: tuple[int, ...] = (), *, inside_step: str | None = None, parent: "Branch | None" = None
    ) -> None:
        self.path = path
        self.inside_step = inside_step
        self.used = False
        """It has taken a key: what it does is part of the run's history."""
        self.waiting: Blocking | None = None
        """The durable waits that it is blocked on."""
        self.joins: tuple[Branch, ...] = ()
        """The threads whose end it is blocked on."""
        self.pool: Any = None
        """A thread's: the pool whose thread it is to be, if it is a pool's."""
        self.started = False
        self.over = False
        self.place = 0
        """Keys taken so far: right after :meth:`key`, the place of that key in the branch."""
        self.settled = True
        """Whether all that the code of this branch has seen stands in history, so that it must go the same way."""
        self.parent = parent
        outer = parent or (current() if inside_step is not None else None)
        self.root: Branch = self if outer is None else outer.root
        """The branch of the task function itself: branches of one run have the same."""
        self.acted = 0
        self.task: weakref.ref[asyncio.Task[Any]] | None = None
        self.error: BaseException | None = None
        self.watched = False
        self.seen: int | None = None
        self.ended = False
        self._counts: Counter[str] = Counter()
        self._children = 0
        """Branches that it has started."""
        self._lock = threading.Lock()
        self._owner: tuple[int, int] | None = None

    def claim(self, task: "asyncio.Task[Any] | None" = None) -> None:
        """Bind the branch to the calling thread and, in asynchronous code, to a task: only they may use it.

        Context variables are copied into much that runs beside the branch (callbacks, ``asyncio.to_thread``, tasks of a
        loop that is not ours). Keys taken there would depend on which was faster.
        """
        self._owner = (threading.get_ident(), id(task) if task is not None else 0)
        if task is not None:
            _OF_TASK[task] = self
        self.task = weakref.ref(task) if task is not None else None

    def key(self, name: str) -> str:
        """Return the key of the next step with this name.

        Raises:
            StepError: Called from beside the branch, where nobody knows the order of steps.
        """
        task, alone = _asyncio_task()
        here = (threading.get_ident(), id(task) if task is not None else 0)
        if self._owner is None:
            self._owner = here
        elif here != self._owner and not (alone and self._owner == (here[0], 0)):
            raise StepError(_beside(name, self._owner, here))
        self.used = True
        self.place += not name.startswith("~")  # what is calculated leaves no row
        self.acted = tick()
        self._counts[name] += 1
        count = self._counts[name]
        local = name if count == 1 else f"{name}#{count}"
        return f"{'.'.join(map(str, self.path))}/{local}" if self.path else local

    def child(self) -> "Branch":
        """Return the branch that this one starts now."""
        with self._lock:
            number = self._children
            self._children += 1
            self.acted = tick()
        child = Branch((*self.path, number), inside_step=self.inside_step, parent=self)
        child.settled = self.settled
        return child

    @property
    def has_started_others(self) -> bool:
        """Whether it has ever started a branch."""
        return self._children > 0

    def unsettle(self) -> None:
        """Note that a step of this branch has run just now: it may have ended otherwise than in an earlier attempt.

        The code of this branch, and of those that wait for it, may go another way for it.
        """
        branch: Branch | None = self
        while branch is not None and branch.settled:
            branch.settled = False
            branch = branch.parent


def current() -> Branch | None:
    """Return the branch of the calling code, or None where there is none."""
    return _CURRENT.get(None)


def of_task(task: "asyncio.Task[Any]") -> Branch | None:
    """Return the branch that a task is."""
    return _OF_TASK.get(task)


def threads(root: Branch) -> "list[Branch]":
    """Return a run's threads that may still do something: those whose call has begun, and those that can begin now."""
    there = list(_THREADS)
    busy = Counter(branch.pool for branch in there if branch.started and branch.pool is not None)
    mine = [branch for branch in there if branch.root is root]
    return [b for b in mine if b.started or b.pool is None or busy[b.pool] < b.pool.size]


def enter(branch: Branch) -> Any:
    """Make ``branch`` the current one; give what this returns to :func:`leave`."""
    return _CURRENT.set(branch)


def leave(token: Any) -> None:
    """Undo :func:`enter`."""
    _CURRENT.reset(token)


def as_thread(call: Callable[[], R]) -> tuple[Callable[[], R], Branch | None]:
    """Return ``call`` as something that a thread may run: a branch, numbered now, with the calling context."""
    context = copy_context()
    parent = current()
    branch = None if parent is None else parent.child()
    if branch is not None:
        _THREADS.add(branch)

    def run() -> R:
        if branch is None:
            return call()
        branch.started = True
        branch.claim()
        enter(branch)
        try:
            return call()
        except BaseException as error:
            branch.error = error
            raise
        finally:
            branch.over = True
            _THREADS.discard(branch)

    return lambda: context.run(run), branch


@contextmanager
def joining(branches: Iterable[Branch]) -> Iterator[None]:
    """Note that the calling branch waits for the end of these threads, and for nothing else."""
    here = current()
    if here is None:
        yield
        return
    here.joins = tuple(branches)
    try:
        yield
    finally:
        here.joins = ()


def task_factory(loop: "asyncio.AbstractEventLoop", coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    """Make asyncio tasks that are branches, whoever makes them: gather, TaskGroup, create_task."""
    import asyncio

    parent = current()
    if parent is None or parent.ended:
        return asyncio.Task(coroutine, loop=loop, **options)
    given = options.pop("context", None)
    # Copied even where the caller gives one: two tasks in one context would be one branch.
    context = copy_context() if given is None else given.copy()
    branch = parent.child()
    context.run(enter, branch)
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context, **options)
    branch.claim(task)
    return task


def _asyncio_task() -> "tuple[asyncio.Task[Any] | None, bool]":
    """Return the task that calls, and whether it is all that a loop runs which is not ours."""
    asyncio: Any = sys.modules.get("asyncio")
    loop = asyncio._get_running_loop() if hasattr(asyncio, "_get_running_loop") else None  # noqa: SLF001 - public by its __all__
    if loop is None:
        return None, False
    task = asyncio.current_task(loop)
    foreign = task is not None and loop.get_task_factory() is not task_factory
    return task, foreign and len(asyncio.all_tasks(loop)) == 1


def _beside(name: str, owner: tuple[int, int], here: tuple[int, int]) -> str:
    what = f"{name[1:]}()" if name.startswith("~") else f"Step {name!r}"
    if here[0] != owner[0]:
        return (
            f"{what} is called from a thread that Windlass does not know, nor its place in the run. "
            "Start threads with windlass.to_thread() or windlass.ThreadPoolExecutor."
        )
    if here[1] == 0:
        return f"{what} is called from a callback, whose place in the run nobody knows. Call it from a task."
    return (
        f"{what} is called from one of several tasks of an event loop that Windlass does not know, nor their "
        "order. Make the task function `async def`, and leave the loop's task factory as it is."
    )
