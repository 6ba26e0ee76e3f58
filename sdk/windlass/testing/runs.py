"""Runs as a test sees them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from windlass.errors import RunFailedError

FINAL: Final = frozenset({"Succeeded", "Failed", "TimedOut", "Cancelled", "Expired"})


@dataclass(frozen=True)
class StepSeen:
    """One step of a run's history.

    Attributes:
        key: Of the step: path of its branch, name, count.
        name: Its name.
        kind: ``step``, or what kind of wait: ``sleep``, ``event``, ``approval``, ``token``, ``run``.
        state: ``running``, ``succeeded``, ``failed`` or ``waiting``.
        result: What was saved, as JSON has it.
        error: Type and message of its failure.
        tries: How often the last attempt tried it.
        run_id: Of a child run: its id.
    """

    key: str
    name: str
    kind: str
    state: str
    result: Any
    error: str | None
    tries: int
    run_id: str | None


@dataclass(frozen=True)
class Waiting:
    """Something that a run waits for.

    Attributes:
        run_id: The run's id.
        task: The run's task.
        key: Of the wait in the run's history.
        name: Its name there: ``wait_for_event``, or the ``name=`` of an approval.
        kind: ``sleep``, ``event``, ``approval``, ``token`` or ``run``.
        target: The event's name, the token's id, the run's id.
        due: When it is over at the latest.
        question: Of an approval.
        detail: What the wait says besides, as JSON has it: of an event its ``match``.
    """

    run_id: str
    task: str
    key: str
    name: str
    kind: str
    target: str | None
    due: datetime | None
    question: str | None = None
    detail: Any = None


class Run:
    """A run of a test. What it says is always the run as it is now.

    Attributes:
        id: The run's id.
    """

    def __init__(
        self, run_id: str, look: Callable[[str], dict[str, Any]], waits: Callable[[str], list[Waiting]]
    ) -> None:
        self.id = run_id
        self._look = look
        self._waits = waits
        self._final: dict[str, Any] | None = None

    def _now(self) -> dict[str, Any]:
        if self._final is not None:
            return self._final
        found = self._look(self.id)
        if found["state"] in FINAL:
            self._final = found
        return found

    @property
    def state(self) -> str:
        """``Succeeded``, ``Failed``, ``TimedOut``, ``Cancelled``; ``Waiting`` and the like for one that is not over."""
        return str(self._now()["state"])

    @property
    def result(self) -> Any:
        """What the task returned, as JSON has it.

        Raises:
            RunFailedError: The run has not succeeded (yet); the text has the traceback.
        """
        found = self._now()
        if found["state"] != "Succeeded":
            raise self.error or RunFailedError(found["state"], f"The run is {found['state']}: {_waits(self.waits_for)}")
        return found["result"]

    @property
    def error(self) -> RunFailedError | None:
        """Why the run has not succeeded; None if it has, or is not over."""
        found = self._now()
        if found["state"] not in FINAL | {"Suspended"} or found["state"] == "Succeeded":
            return None
        last = found["error"] or {}
        why, said = last.get("type") or found["reason"], last.get("message") or found["message"]
        text = f"The run is {found['state']}: {why}: {said}"
        if last.get("traceback"):
            text += f"\n\n{last['traceback']}"
        return RunFailedError(
            found["state"],
            text,
            run_id=self.id,
            failure_type=why,
            failure_class=last.get("class"),
            failure_message=said,
        )

    @property
    def steps(self) -> list[StepSeen]:
        """Its history, in the order in which steps were first saved."""
        return [
            StepSeen(
                s["key"], s["name"], s["kind"], s["state"], s["result"], _error(s["error"]), s["tries"], s["childId"]
            )
            for s in self._now()["steps"]
        ]

    @property
    def attempts(self) -> int:
        """How often its code was called, those calls included that ended in a wait."""
        return int(self._now()["attempts"])

    @property
    def waits_for(self) -> list[Waiting]:
        """What it waits for now."""
        return self._waits(self.id)

    def __repr__(self) -> str:
        """Say what it is and how it stands."""
        found = self._now()
        return f"<Run of {found['task']}: {found['state']}>"


def _error(failure: dict[str, Any] | None) -> str | None:
    return None if failure is None else f"{failure['type']}: {failure['message']}"


def _waits(waits: list[Waiting]) -> str:
    return (
        "it waits for " + (", ".join(f"{w.kind} {w.question or w.target or w.key!r}" for w in waits) or "nothing") + "."
    )
