"""What the test says comes of the things that runs wait for."""

from typing import Any, Final

from windlass.testing.runs import Waiting


class _Silence:
    def __repr__(self) -> str:
        return "SILENCE"


SILENCE: Final = _Silence()
"""An answer that never comes: time passes, until the wait's timeout."""

Answer = Any
"""A value, :data:`SILENCE`, or a function that gets the :class:`Waiting` and returns one of the two."""


class Script:
    """Answers by what is waited for. Several for one thing are given in turn; the last one stays."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str | None], list[Answer]] = {}
        self._used: dict[tuple[str, str | None], int] = {}
        self._given: dict[tuple[str, str], Answer] = {}

    def add(self, kind: str, name: str | None, answer: Answer) -> None:
        """Add an answer. Without a name it is for every wait of the kind that has none of its own."""
        self._answers.setdefault((kind, name), []).append(answer)

    def rewind(self) -> None:
        """Begin again: no answer was given yet."""
        self._used.clear()
        self._given.clear()

    def has(self, waiting: Waiting) -> bool:
        """Whether there is an answer for a wait."""
        return self._slot(waiting) is not None

    def given(self, waiting: Waiting) -> bool:
        """Whether a wait got its answer before."""
        return (waiting.run_id, waiting.key) in self._given

    def answer(self, waiting: Waiting) -> Answer:
        """Return the answer for a wait: the same one, however often it is asked for."""
        place = (waiting.run_id, waiting.key)
        if place not in self._given:
            slot = self._slot(waiting)
            assert slot is not None, "asked for after a look"
            answers, used = self._answers[slot], self._used.get(slot, 0)
            self._used[slot] = used + 1
            chosen = answers[min(used, len(answers) - 1)]
            is_function: bool = callable(chosen)
            self._given[place] = chosen(waiting) if is_function else chosen
        return self._given[place]

    def _slot(self, waiting: Waiting) -> "tuple[str, str | None] | None":
        named = (waiting.kind, waiting.target if waiting.kind == "event" else waiting.name)
        return next((slot for slot in (named, (waiting.kind, None)) if slot in self._answers), None)
