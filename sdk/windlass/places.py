"""Places: which step history has at the how-manieth call of each branch, and what is said if the code asks for another.

Keys alone do not show that code has changed: with a step removed, the next one still finds its key. A place is not held
against code whose branch has met a new outcome in this attempt: where a step failed and the code went on, the way that
history shows need not be the one that the code goes now.
"""

from collections.abc import Iterable
from typing import Final

from windlass import protocol
from windlass.errors import DivergenceError

_SHOWN: Final = 120
"""Characters of a key in a message, which has 1,024 in all."""


class Places:
    """What history has at each place of each branch."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], tuple[str, str | None]] = {}

    def add(self, steps: Iterable[protocol.Step]) -> None:
        """Note the places of steps, as far as they are known."""
        for step in steps:
            if step.place is not None:
                self._held[branch_of(step.key), step.place] = (step.key, step.code_id)

    def at(self, key: str, place: int) -> tuple[str, str | None] | None:
        """Return key and code id of the step that history has at this place of the key's branch, if it has one."""
        return self._held.get((branch_of(key), place))


def branch_of(key: str) -> str:
    """Return the path in a key: empty for the task function itself."""
    return key.rpartition("/")[0]


def other_step(held: tuple[str, str | None], key: str, place: int, code: str | None, run: str) -> DivergenceError:
    """Return the error for code that asks for ``key`` at a place where history has another step."""
    branch = branch_of(key)
    where = f"branch {branch}" if branch else "the task function"
    return DivergenceError(
        f"At place {place} of {where} history has step {_short(held[0])}, saved by {_code(held[1])}. "
        f"There the code that runs now ({_code(code)}) asks for step {_short(key)}. {_ways_out(held[1], code, run)}"
    )


def other_arguments(saved: protocol.Step, name: str, args_hash: str, code: str | None, run: str) -> DivergenceError:
    """Return the error for code that asks for a step with other arguments, or another name, than history has."""
    key = _short(saved.key)
    now = f"with other arguments ({args_hash})" if saved.name == name else f"for a step named {_short(name)}"
    return DivergenceError(
        f"Step {key} was saved by {_code(saved.code_id)} with the arguments {saved.args_hash}. "
        f"The code that runs now ({_code(code)}) asks for {key} {now}. {_ways_out(saved.code_id, code, run)}"
    )


def _ways_out(saved: str | None, code: str | None, run: str) -> str:
    if saved is not None and saved == code:
        why = (
            "It is the same code, so what it does between steps is not the same in every attempt: "
            "take times, random numbers and answers of other systems from a step."
        )
    else:
        why = "The code or its inputs changed since."
    return (
        f"{why} Apply code that fits, or give the task a migrate= function, then `windlass runs resume {run}`; "
        f"or end it: `windlass runs cancel {run}`."
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _code(code: str | None) -> str:
    return f"code {code}" if code else "code of an unknown id"
