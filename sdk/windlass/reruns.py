"""Which failed steps the next attempt runs again, and which ones fail in it as they did in this one.

A failed step is history: the code may have caught the error and gone another way, and a later attempt that found the
step succeeding would charge a second card. But an error that ended the attempt is what the run is retried for. And so
is one that nobody has looked at: of ten steps that fail in one ``gather`` only the first reaches the code.
"""

import threading
from typing import TYPE_CHECKING, Any, Final

from windlass.branches import Branch, current, tick

if TYPE_CHECKING:
    import asyncio

MARK: Final = "_windlass_steps"
"""Attribute of an exception: keys of the steps it came from. To keep the exceptions would keep all they refer to."""

_LARGEST: Final = 256 * 1024
"""Characters of keys: what a child may report has a limit. The rest runs again one attempt later."""
_LOOK_AT: Final = 64


def mark(error: BaseException, key: str) -> None:
    """Note which step an exception comes from."""
    vars(error).setdefault(MARK, []).append(key)


class FailedStep:
    """A step that failed in this attempt, and who may know of it.

    Args:
        key: Its key.
        restored: It failed in an earlier attempt, and history says so.
    """

    def __init__(self, key: str, *, restored: bool) -> None:
        self.key = key
        self.restored = restored
        self._raised: int | None = None
        self._lines: list[tuple[Branch, asyncio.Task[Any] | None]] = []
        branch = current()
        while branch is not None:  # tasks are kept: how they ended is asked for when all is over
            self._lines.append((branch, branch.task() if branch.task is not None else None))
            branch = branch.parent

    def raised(self) -> None:
        """The error reaches the code from here on."""
        self._raised = tick()

    def may_be_unseen(self) -> bool:
        """Return whether it is worth keeping: the run's first branch, and the step's own, have not gone on since."""
        first = self._lines[0][0]
        if self._raised is None or (first.watched and first.seen is None):
            return True
        return all(self._lines[at][0].acted < (first.seen or self._raised) for at in (0, -1))

    def is_unseen(self, around: set[str]) -> bool:
        """Return whether no code can have gone another way because of it.

        Args:
            around: Steps whose errors have to do with what ended the attempt.
        """
        if self._raised is None:
            return True  # the line that called it was cancelled before
        left, known = 0, self._raised
        while left < len(self._lines) - 1 and self._left(*self._lines[left]):
            branch = self._lines[left][0]
            if branch.watched:
                if branch.seen is None:
                    return True  # nobody has asked how it ended
                known = branch.seen
            left += 1
        if left == 0 and self.key not in around:
            return False  # the code that called the step has dealt with it
        return all(branch.acted < known for branch, _ in self._lines[left:])

    def _left(self, branch: Branch, task: "asyncio.Task[Any] | None") -> bool:
        """Return whether a branch ended with this error."""
        end = branch.error
        if task is not None and task.done() and not task.cancelled():
            end = task.exception()
        return end is not None and self.key in _steps_of(end, contexts=True)


class FailedSteps:
    """The failed steps of one attempt."""

    def __init__(self) -> None:
        self._all: list[FailedStep] = []
        self._look_at = _LOOK_AT
        self._lock = threading.Lock()

    def add(self, key: str, error: BaseException, *, restored: bool = False) -> FailedStep:
        """Note that a step of the calling branch has failed, before its error is raised."""
        mark(error, key)
        failed = FailedStep(key, restored=restored)
        with self._lock:
            self._all.append(failed)
            if len(self._all) > self._look_at:  # a loop that catches errors for days must not grow
                self._all = [one for one in self._all if one.may_be_unseen()]
                self._look_at = max(_LOOK_AT, 2 * len(self._all))
        return failed

    def to_rerun(self, outcome: BaseException, *, history_left: bool) -> list[str]:
        """Return the keys of those that the next attempt runs again.

        Those whose errors the code let through, as they are, as causes or as members of groups; and those that nothing
        in history can depend on.

        Args:
            outcome: What ended the attempt.
            history_left: Earlier attempts have saved steps that this one did not come to. They may depend on any
                failure of those attempts.
        """
        keys = _steps_of(outcome, contexts=False)
        around = _steps_of(outcome, contexts=True)
        keys.update(
            failed.key
            for failed in self._all
            if not (failed.restored and history_left) and failed.key not in keys and failed.is_unseen(around)
        )
        size, fit = 0, []
        for key in sorted(keys):
            size += len(key)
            if size < _LARGEST:
                fit.append(key)
        return fit


class Past:
    """What came of a step in an earlier attempt."""

    def __init__(self, value: Any = None, *, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error

    def again(self, failed: FailedSteps, key: str) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            failed.add(key, self.error, restored=True).raised()
            raise self.error
        return self.value


def _steps_of(error: BaseException, *, contexts: bool) -> set[str]:
    """Return the steps that an exception, its causes and members come from; with contexts, what it was raised over."""
    keys: set[str] = set()
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        keys.update(vars(one).get(MARK, ()))
        rest.append(one.__cause__)
        if contexts:
            rest.append(one.__context__)
        if isinstance(one, BaseExceptionGroup):
            rest += one.exceptions
    return keys
