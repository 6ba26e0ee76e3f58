"""What the journal of one run through a task says. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from windlass.testing.effects import Effect, effect_of

Boundary = tuple[str, str]
"""Name and moment."""


@dataclass(frozen=True)
class Passage:
    """One run through a task, with one kill at most.

    Attributes:
        state: Of the run at its end.
        result: As JSON has it.
        error: Why it has not succeeded: type and message.
        boundaries: Those that were reached, in this order, each once.
        effects: What stand-ins noted.
        killed: Where it was killed.
        cut_off: Steps whose body had begun and that were not saved when it was killed: run and key.
        repeated: Steps whose body ran again although they were saved: run and key.
        given: What the test's own ``effects`` function returned at the end.
    """

    state: str
    result: Any
    error: str | None
    boundaries: list[Boundary] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    killed: Boundary | None = None
    cut_off: frozenset[tuple[str, str]] = frozenset()
    repeated: tuple[tuple[str, str], ...] = ()
    given: Any = None


def read(
    entries: Sequence[dict[str, Any]], *, state: str, result: Any, error: str | None, given: Any = None
) -> Passage:
    """Return what happened, from what the processes wrote down."""
    boundaries: dict[Boundary, None] = {}
    effects: list[Effect] = []
    killed: Boundary | None = None
    begun: Counter[tuple[str, str]] = Counter()
    saved: set[tuple[str, str]] = set()
    repeated: list[tuple[str, str]] = []
    cut_off: frozenset[tuple[str, str]] = frozenset()
    for entry in entries:
        if "at" in entry:
            boundaries[(entry["at"][0], entry["at"][1])] = None
        elif "effect" in entry:
            effects.append(effect_of(entry["effect"]))
        elif "body" in entry:
            step = (entry["body"][0], entry["body"][1])
            if step in saved:
                repeated.append(step)
            begun[step] += 1
        elif "saved" in entry:
            run, key, kept = entry["saved"]
            del begun[run, key]
            if kept:
                saved.add((run, key))
        elif "killed" in entry:
            killed = (entry["killed"][0], entry["killed"][1])
            cut_off = frozenset(begun)
    return Passage(state, result, error, list(boundaries), effects, killed, cut_off, tuple(repeated), given)
