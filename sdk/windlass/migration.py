"""``@task(migrate=...)``: history that other code has written, made to fit the code that runs now.

The function runs at the start of an attempt and changes what the attempt sees, never what the ledger keeps. So it must
stay in the code until the runs that need it are done, and must do the same each time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from windlass import protocol
from windlass.branches import Branch, enter, leave
from windlass.errors import DivergenceError, WindlassError
from windlass.places import branch_of


class MigrationError(WindlassError):
    """A task's ``migrate`` function asks for something that cannot be done."""


@dataclass(frozen=True, slots=True)
class SavedStep:
    """A finished step of the run's history.

    Attributes:
        key: Path of its branch, name and count within the branch.
        name: Its name.
        args_hash: Hash of its arguments.
        code_id: Of the code that saved it; None for one that an older release or a step over HTTP saved.
        place: The how-manieth call of its branch it was, from 1; None where that is unknown, or not compared any more.
    """

    key: str
    name: str
    args_hash: str
    code_id: str | None
    place: int | None


class History:
    """What a run has finished, for the ``migrate`` function of its task.

    What it is asked to do with a key that history does not have is not done: the run had not got that far.
    """

    def __init__(self, steps: Iterable[protocol.Step]) -> None:
        self._steps = {step.key: step for step in steps}
        self._accepted: set[str] = set()
        self._dropped: set[str] = set()

    @property
    def steps(self) -> tuple[SavedStep, ...]:
        """Finished steps in the order in which they were first saved, with what was changed so far."""
        return tuple(SavedStep(s.key, s.name, s.args_hash, s.code_id, s.place) for s in self._steps.values())

    def rename(self, old: str, new: str) -> None:
        """Let the code find a result under another key: its step, or the branch that calls it, was renamed.

        Args:
            old: Key in history.
            new: Key that the code asks for now.

        Raises:
            MigrationError: History has both.
        """
        if old not in self._steps:
            return
        if new in self._steps:
            raise MigrationError(f"rename({old!r}, {new!r}): history has both. Drop one of them first.")
        step = self._steps[old]
        place = step.place if branch_of(old) == branch_of(new) else None
        name = new.rpartition("/")[2].partition("#")[0]
        if old in self._accepted:
            self._accepted.add(new)
        self._steps = {
            new if key == old else key: _changed(s, key=new, name=name, place=place) if key == old else s
            for key, s in self._steps.items()
        }

    def drop(self, key: str) -> None:
        """Forget a result: the step runs again if the code asks for it, and its new result takes the place of this one.

        A step that has run again is not dropped once more, here or by code that comes later. A durable wait does not
        begin again: what ended it stays. Places after it in its branch are not compared any more, so that the code may
        also have no such step.
        """
        step = self._steps.get(key)
        if step is None or step.replaces:
            return
        self._free(step)
        del self._steps[key]
        self._dropped.add(key)

    def accept(self, key: str) -> None:
        """Keep the result of a step although the code asks for it with other arguments."""
        if key in self._steps:
            self._accepted.add(key)

    def insert_before(self, key: str) -> None:
        """Let the code do something else, in another order, where this step was: new steps in front of it, for example.

        From this step on, places of its branch are not compared any more; keys and arguments are.
        """
        step = self._steps.get(key)
        if step is not None:
            self._free(step)

    def _free(self, first: protocol.Step) -> None:
        if first.place is None:
            return
        branch = branch_of(first.key)
        for key, step in self._steps.items():
            if step.place is not None and step.place >= first.place and branch_of(key) == branch:
                self._steps[key] = _changed(step, key=key, name=step.name, place=None)

    def result(self) -> "Migrated":
        """Return what has come of it."""
        return Migrated(list(self._steps.values()), frozenset(self._accepted), frozenset(self._dropped))


@dataclass(frozen=True, slots=True)
class Migrated:
    """A history that fits."""

    steps: list[protocol.Step]
    accepted: frozenset[str]
    """Keys whose arguments are not compared."""
    dropped: frozenset[str]
    """Keys whose results are to be replaced."""


def migrated(migrate: Callable[[History], None], steps: Iterable[protocol.Step]) -> Migrated:
    """Let a task's function change a history.

    Raises:
        DivergenceError: It failed, in its words.
    """
    history = History(steps)
    token = enter(Branch(inside_step="migrate"))  # it is no part of the run: steps are refused
    try:
        migrate(history)
    except Exception as error:
        raise DivergenceError(
            f"The task's migrate function failed: {type(error).__name__}: {error}. "
            "Mend it and resume the run, or cancel the run."
        ) from error
    finally:
        leave(token)
    return history.result()


def _changed(step: protocol.Step, *, key: str, name: str, place: int | None) -> protocol.Step:
    return protocol.Step(
        key=key,
        name=name,
        args_hash=step.args_hash,
        state=step.state,
        result=step.result,
        result_ref=step.result_ref,
        error=step.error,
        kind=step.kind,
        durable=step.durable,
        place=place,
        code_id=step.code_id,
        replaces=step.replaces,
    )
