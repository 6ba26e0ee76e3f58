"""The world of a test: runs, their time, and what comes of what they wait for."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from windlass import protocol
from windlass.durations import parse_duration
from windlass.serialization import encode
from windlass.task_resource import task_resource
from windlass.tasks import Task
from windlass.testing import waiting
from windlass.testing.attempts import Ready, run_here
from windlass.testing.effects import Effects
from windlass.testing.errors import TestingError
from windlass.testing.known import Known, entrypoint_of
from windlass.testing.loops import off_the_loop
from windlass.testing.plane import Plane
from windlass.testing.runs import FINAL, Run, Waiting
from windlass.testing.script import SILENCE, Script

_MOST_MOVES: Final = 10_000
"""Moves of the clock in one call: a task that sleeps in a loop for ever would never end the test."""


class Environment:
    """Runs tasks on a real ledger whose clock only the test moves.

    Attempts run in the test's own process, one after the other, so mocks, debuggers and coverage work. Between two
    attempts a run is nothing but its history in the ledger, as it is in a cluster. No wait takes time: when every run
    waits, the clock goes to whatever is due next.

    Args:
        plane: The control plane. The environment begins by emptying it.
        folder: For the file that keeps effects.

    Attributes:
        effects: What stand-ins have noted; see :class:`Effects`.
    """

    current: "Environment | None" = None
    """The one of the test that runs, for :func:`crash_everywhere`."""

    def __init__(self, plane: Plane, folder: Path | None = None) -> None:
        self._plane = plane
        self._folder = folder or Path(tempfile.mkdtemp(prefix="windlass-testing-"))
        self.journal = self._folder / "effects"
        self.effects = Effects(self.journal)
        self._known = Known()
        self._script = Script()
        self._waits: list[Waiting] = []
        self._now: datetime
        self.execute: Callable[[Ready], None] = run_here
        self.reset()

    def reset(self, now: datetime | None = None) -> None:
        """Forget all runs and effects, but neither tasks nor the script.

        Args:
            now: What the clock shows; by default the machine's time.
        """
        answer = self._plane.do("reset", now=None if now is None else now.isoformat())
        self._now = datetime.fromisoformat(answer["now"])
        self.effects.clear()
        self._script.rewind()
        self._waits = []
        self._apply(self._known.all())

    @property
    def now(self) -> datetime:
        """The time in the test."""
        return self._now

    # What runs are made of

    def register(self, *tasks: Task[Any, Any]) -> None:
        """Make tasks known that a run starts by a way on which they are not found.

        Found by themselves are a run's own task and those that its module, or a module imported there, has by name.
        """
        for task in tasks:
            self._apply(self._known.add(task))

    def stub(self, task: "Task[Any, Any] | str", result: Any = None, *, raises: BaseException | None = None) -> None:
        """Let runs of a task be over at once, instead of running its code.

        Args:
            task: The task, or its name.
            result: What it returns; a function is called with the payload instead, as the task would be.
            raises: What it fails with.
        """
        self._apply([self._known.stub(task if isinstance(task, str) else task.name, result, raises)])

    def _apply(self, tasks: list[Task[Any, Any]]) -> None:
        for task in tasks:
            self._plane.do("apply", task=task_resource(task, entrypoint_of(task)))

    # What comes of waits

    def on_event(self, name: str, payload: Any = None) -> None:
        """Say what comes when a run waits for an event: it is sent then.

        Args:
            name: Of the event.
            payload: Its content; a function gets the :class:`Waiting` and returns it; :data:`SILENCE`: it never comes.
                Several calls for one name are for one wait after the other, and the last one for all that follow.
        """
        self._script.add("event", name, payload)

    def on_approval(
        self, approved: Any, *, by: str = "tester", comment: str | None = None, name: str | None = None
    ) -> None:
        """Say what is decided when a run asks for an approval.

        Args:
            approved: True or False; :data:`SILENCE`: nobody decides; a function gets the :class:`Waiting`, with the
                question, and returns one of these.
            by: Who decides.
            comment: What they say.
            name: Only for waits of this name (``wait_for_approval(name=...)``).
        """

        def decide(asked: Waiting) -> Any:
            verdict = approved(asked) if callable(approved) else approved
            return verdict if verdict is SILENCE else waiting.Decided(bool(verdict), by, comment)

        self._script.add("approval", name, decide)

    def on_token(self, value: Any = None) -> None:
        """Say what a token that a run waits for is completed with; :data:`SILENCE`: nobody does. As for events."""
        self._script.add("token", None, value)

    # Runs

    def run(self, task: Task[Any, Any], payload: Any = None, *, tags: tuple[str, ...] = ()) -> Run:
        """Run a task to its end, through all its waits, and return the run: succeeded or failed.

        In an asynchronous test this blocks the loop; if something in it must go on meanwhile, use :meth:`run_async`.

        Raises:
            UnscriptedWaitError: It waits for something that nobody gives it.
        """
        return off_the_loop(lambda: self.finish(self._submit(task, payload, tags)))

    async def run_async(self, task: Task[Any, Any], payload: Any = None, *, tags: tuple[str, ...] = ()) -> Run:
        """Run a task to its end in a thread, while the loop of the test goes on. See :meth:`run`."""
        return await asyncio.to_thread(self.run, task, payload, tags=tags)

    def start(self, task: Task[Any, Any], payload: Any = None, *, tags: tuple[str, ...] = ()) -> Run:
        """Run a task until it waits for something that the script does not say. No time passes.

        After that :meth:`send_event`, :meth:`approve`, :meth:`advance` and the like let it go on.
        """

        def call() -> Run:
            run = self._submit(task, payload, tags)
            self.settle()
            return run

        return off_the_loop(call)

    def finish(self, run: Run) -> Run:
        """Let a run that was started go on to its end, as :meth:`run` does."""

        def call() -> Run:
            for _ in range(_MOST_MOVES):
                idle = self.settle()
                state = run.state
                if state in FINAL or state == "Suspended":
                    return run
                self._move(waiting.next_time(idle, self._script))
            raise TestingError(f"The run has not ended after {_MOST_MOVES} moves of the clock: does it loop for ever?")

        return off_the_loop(call)

    def _submit(self, task: Task[Any, Any], payload: Any, tags: tuple[str, ...]) -> Run:
        if not isinstance(task, Task):
            raise TypeError(f"{task!r} is no task: give run() a function with @task.")
        self.register(task)
        plain = msgspec.json.decode(encode(payload, what="payload"))
        answer = self._plane.do("submit", task=task.name, payload=plain, tags=list(tags))
        return Run(answer["runId"], self._see, self._waits_of)

    # By hand

    def send_event(self, name: str, payload: Any = None, *, id: str | None = None) -> None:  # noqa: A002 - the event's own word
        """Send an event, and let go on who waits for it."""
        plain = msgspec.json.decode(encode(payload, what="payload of the event"))
        self._plane.do("send_event", name=name, payload=plain, event_id=id)
        off_the_loop(self.settle)

    def approve(self, *, by: str = "tester", comment: str | None = None, name: str | None = None) -> None:
        """Approve what a run asks for; with several that ask, the one whose wait has this name."""
        self._decide(True, by, comment, name)

    def refuse(self, *, by: str = "tester", comment: str | None = None, name: str | None = None) -> None:
        """Refuse what a run asks for."""
        self._decide(False, by, comment, name)

    def _decide(self, approved: bool, by: str, comment: str | None, name: str | None) -> None:
        asked = waiting.only([w for w in self._waits if w.kind == "approval"], name, "asks for an approval")
        self._plane.do("decide", run_id=asked.run_id, key=asked.key, approved=approved, by=by, comment=comment)
        off_the_loop(self.settle)

    def complete_token(self, value: Any = None, *, token: str | None = None) -> None:
        """Complete the token that a run waits for; with several, the one of this id or address."""
        if token is None:
            token = waiting.only([w for w in self._waits if w.kind == "token"], None, "waits for a token").target
        plain = msgspec.json.decode(encode(value, what="value of the token"))
        self._plane.do("complete_token", token=token, value=plain)
        off_the_loop(self.settle)

    def cancel(self, run: Run) -> None:
        """Cancel a run."""
        self._plane.do("cancel", run_id=run.id)
        off_the_loop(self.settle)

    def advance(self, duration: str | timedelta) -> None:
        """Let time pass: sleeps and timeouts that are due meanwhile end one after the other.

        Args:
            duration: Such as ``"3d"``.
        """

        def call() -> None:
            until = self._now + parse_duration(duration)
            for _ in range(_MOST_MOVES):
                due = waiting.first_time(self.settle())
                if due is None or due > until:
                    break
                self._move(due)
            self._move(until)
            self.settle()

        off_the_loop(call)

    # How it goes on

    def settle(self) -> waiting.Idle:
        """Run attempts, and give the script's answers, until nothing but time is left; return what is waited for."""
        while True:
            answer = self._plane.do("next")
            self._now = datetime.fromisoformat(answer["now"])  # a forked attempt may have moved it
            if "attempt" in answer:
                self._run(msgspec.json.decode(answer["attempt"], type=protocol.ClaimedAttempt))
                continue
            idle = waiting.Idle.of(answer)
            self._waits = idle.waits
            if sum(self._answer(one) for one in idle.waits) == 0:
                return idle

    def _run(self, attempt: protocol.ClaimedAttempt) -> None:
        task = self._known.get(attempt.task)
        assert task is not None, "what is submitted was applied, and what is applied is known"
        self.execute(Ready(task, attempt, self._plane.url, lambda: self._now, self._skip))

    def _skip(self, seconds: float) -> None:
        self._move(self._now + timedelta(seconds=seconds))

    def _answer(self, asked: Waiting) -> bool:
        if not self._script.has(asked):
            return False
        repeated = self._script.given(asked)
        answer = self._script.answer(asked)
        if answer is SILENCE:
            return False
        if repeated:
            raise TestingError(waiting.not_taken(asked, answer))
        if isinstance(answer, waiting.Decided):
            verdict = {"approved": answer.approved, "by": answer.by, "comment": answer.comment}
            self._plane.do("decide", run_id=asked.run_id, key=asked.key, **verdict)
            return True
        plain = msgspec.json.decode(encode(answer, what=f"answer for {asked.kind} {asked.target!r}"))
        if asked.kind == "event":
            self._plane.do("send_event", name=asked.target, payload=plain)
        else:
            self._plane.do("complete_token", token=asked.target, value=plain)
        return True

    def _move(self, until: datetime) -> None:
        if until >= self._now:  # also for the time that it is: what is due now may be in the hands of somebody else
            self._now = until
            self._plane.do("move", until=until.isoformat())

    def lose(self, attempt_id: str, message: str) -> None:
        """Close an attempt whose process is gone, as the end of its pod does."""
        self._plane.do("lose", attempt_id=attempt_id, reason="PodDeleted", message=message)

    def _see(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._plane.do("see", run_id=run_id)
        return found

    def _waits_of(self, run_id: str) -> list[Waiting]:
        return [one for one in self._waits if one.run_id == run_id]

    def close(self) -> None:
        """Let go of the file with the effects."""
        with contextlib.suppress(OSError):
            self.journal.unlink()
