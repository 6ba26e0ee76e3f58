"""Whether anything but durable waits is left of a run, so that its process can end.

A branch is blocked if it is in a durable wait, or joins branches (by gather, TaskGroup, asyncio.wait, the result of a
thread) that are all blocked. Whatever else it awaits (a socket, a queue, a plain sleep) keeps the process: we cannot
know what would end that. So a mistake here can only hold a pod for longer than needed.
"""

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from windlass import branches
from windlass.branches import Branch

if TYPE_CHECKING:
    from windlass.context import Active
    from windlass.waits import Pending

_OURS: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - as in steps


@dataclass
class Blocked:
    """What a run waits for.

    Attributes:
        waits: Every durable wait that a branch is blocked on.
        groups: Those of which no single one lets the code go on: all are awaited by one join, and nothing of the
            user's code stands between the wait and the join.
        together: Those that one call awaits, whatever becomes of each.
    """

    waits: "list[Pending]" = field(default_factory=list)
    groups: "list[list[Pending]]" = field(default_factory=list)
    together: "list[list[Pending]]" = field(default_factory=list)


def blocked(attempt: "Active", root: Branch) -> Blocked | None:
    """Return what the run waits for if nothing else is left of it, else None.

    Asynchronous runs: call it in the loop's thread.
    """
    if not attempt.checkpoints.idle:
        return None
    found = _Search()
    if attempt.loop is None:
        return found.result if found.branch(root) and found.threads(root) else None
    import asyncio

    if not found.task(attempt.main_task) or not found.threads(root) or not found.no_timer(attempt.loop):
        return None
    for task in asyncio.all_tasks(attempt.loop):
        branch = branches.of_task(task)
        # A task that nobody awaits: one with steps or waits is part of the run, a library's own is not.
        mine = branch is not None and branch.root is root and branch.used
        if mine and task not in found.tasks and not found.task(task):
            return None
    return found.result


class _Search:
    def __init__(self) -> None:
        self.result = Blocked()
        self.tasks: set[Any] = set()
        self._branches: set[Branch] = set()
        self._waiters: set[Any] = set()

    def branch(self, branch: Branch) -> bool:
        """Whether a thread is blocked."""
        if branch in self._branches:
            return True
        self._branches.add(branch)
        if branch.waiting is not None:
            self.result.waits += branch.waiting.each
            if len(branch.waiting.each) > 1:
                self.result.together.append(list(branch.waiting.each))
            return True
        joins = branch.joins
        left = [joined for joined in joins if not joined.over]
        return bool(left) and all(self.branch(joined) for joined in left)

    def threads(self, root: Branch) -> bool:
        """Whether every thread of the run is blocked, whoever waits for it."""
        return all(self.branch(branch) for branch in branches.threads(root))

    def task(self, task: Any) -> bool:
        """Whether a task is blocked. One that is done is not: whoever awaits it goes on."""
        if task is None or task.done():
            return False
        if task in self.tasks:
            return True  # awaited twice; a circle cannot go on either
        self.tasks.add(task)
        branch = branches.of_task(task)
        if branch is not None and (branch.waiting is not None or branch.joins):
            return self.branch(branch)
        awaited = _awaited_by(task)
        if awaited is None:
            return False
        self._waiters.add(getattr(task, "_fut_waiter", None))
        left = [one for one in awaited.futures if not one.done()]
        if not left or not all(self.task(one) for one in left):
            return False
        if awaited.all_of_them:
            group = [wait for wait in map(_only_a_wait, left) if wait is not None]
            if len(group) > 1:
                self.result.groups.append(group)
        return True

    def no_timer(self, loop: Any) -> bool:
        """Whether no timer of the loop would let a blocked task go on: a timeout around a wait, for example."""
        for handle in getattr(loop, "_scheduled", ()):
            if handle.cancelled():
                continue
            owner = getattr(getattr(handle, "_callback", None), "__self__", None)
            if getattr(owner, "_task", None) in self.tasks:
                return False
            if any(
                argument in self._waiters for argument in (getattr(handle, "_args", None) or ()) if _hashable(argument)
            ):
                return False
        return True


@dataclass
class _Awaited:
    futures: list[Any]
    all_of_them: bool


def _awaited_by(task: Any) -> _Awaited | None:
    """Return the tasks that a task waits for, None where nobody can say."""
    future = getattr(task, "_fut_waiter", None)
    if future is None:
        return None  # about to run
    asyncio: Any = sys.modules["asyncio"]
    if isinstance(future, asyncio.Task):
        return _Awaited([future], all_of_them=False)
    children = getattr(future, "_children", None)
    if children is not None:  # gather
        return _Awaited(_tasks_of(children), all_of_them=True) if _tasks_of(children) else None
    frame = _innermost(task.get_coro())
    if frame is None:
        return None
    module, name, variables = frame.f_globals.get("__name__"), frame.f_code.co_name, frame.f_locals
    if module == "asyncio.taskgroups" and "self" in variables:
        return _Awaited(list(getattr(variables["self"], "_tasks", ())), all_of_them=True)
    if module == "asyncio.tasks" and name == "_wait" and variables.get("timeout") is None:
        everything = variables.get("return_when") == asyncio.ALL_COMPLETED
        return _Awaited(_tasks_of(variables.get("fs", ())), all_of_them=everything)
    return None


def _tasks_of(futures: Any) -> list[Any]:
    """Return the futures, or nothing if one of them is no task: nobody knows what ends it."""
    asyncio: Any = sys.modules["asyncio"]
    listed = list(futures)
    return listed if all(isinstance(one, asyncio.Task) for one in listed) else []


def _only_a_wait(task: Any) -> "Pending | None":
    """Return the wait of a task that is nothing but one: its coroutine is ours, not the user's."""
    code = getattr(task.get_coro(), "cr_code", None)
    branch = branches.of_task(task)
    if code is None or branch is None or not code.co_filename.startswith(_OURS):
        return None
    waits = branch.waiting.each if branch.waiting is not None else ()
    return waits[0] if len(waits) == 1 and not waits[0].in_step else None


def _innermost(coroutine: Any) -> Any:
    """Return the frame in which a coroutine is suspended, or None if that is not Python code."""
    frame = None
    for _ in range(1000):
        found = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if found is None:
            return frame
        frame = found
        following = getattr(coroutine, "cr_await", None)
        coroutine = following if following is not None else getattr(coroutine, "gi_yieldfrom", None)
    return None


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
