"""``crash_everywhere``: a task runs once to show where it can be killed, and once for each place, with a kill there."""

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from windlass import protocol
from windlass.durations import parse_duration
from windlass.execution import execute
from windlass.tasks import Task
from windlass.testing.attempts import AttemptTransport, Ready, report, run_forked
from windlass.testing.boundaries import CrashingTransport, Points, watching
from windlass.testing.comparing import differences
from windlass.testing.effects import Effects, entries
from windlass.testing.environment import Environment
from windlass.testing.errors import CrashError, TestingError
from windlass.testing.journal import Boundary, Passage, read
from windlass.testing.loops import off_the_loop

_ENOUGH: Final = 5
"""Boundaries that fail, after which no more are tried: the first ones say enough."""
_SAY_EVERY: Final = 5.0
"""Seconds between two words about how far it is."""
_START: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
"""The time at which each run begins, so that what it is told of the time is the same."""


@dataclass(frozen=True)
class CrashReport:
    """What :func:`crash_everywhere` has found out, where nothing failed.

    Attributes:
        boundaries: How many places there are.
        tried: At how many of them the task was killed.
        seed: Chose them, where it was not all.
        not_reached: Those that a later run did not come to: its branches went another way.
        seconds: How long it took.
    """

    boundaries: int
    tried: int
    seed: int
    not_reached: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        unseen = f", {len(self.not_reached)} of them not reached again" if self.not_reached else ""
        return (
            f"killed at {self.tried} of {self.boundaries} boundaries{unseen} in {self.seconds:.1f} s, seed {self.seed}"
        )


def crash_everywhere(
    task: Task[Any, Any],
    payload: Any = None,
    *,
    env: Environment | None = None,
    effects: Callable[[], Any] | Effects | None = None,
    reset: Callable[[], object] = lambda: None,
    same: Callable[[Any], Any] = lambda value: value,
    exactly_once: bool = False,
    sample: int | None = None,
    seed: int | None = None,
    only: str | None = None,
    attempt_limit: str | timedelta = "60s",
) -> CrashReport:
    """Kill a task at each boundary, and fail if its result or its effects are others than without a kill.

    Each attempt runs in a process of its own, which is killed by SIGKILL, so what code keeps in memory is gone as it is
    when a pod dies. Waits, approvals and children are the environment's: script them before.

    Args:
        task: The task.
        payload: Its payload.
        env: By default the one of the fixture ``windlass_env``.
        effects: What the task has done to the world: a function that returns a number or a list of it, looked at after
            each run. By default what was noted in ``env.effects``, which knows more: in which step it happened.
        reset: Called before each run: makes the world outside what it was.
        same: What of a result must be the same: called with each result before they are compared.
        exactly_once: Do not let a body that was cut off repeat its effects, unless they have an idempotency key.
        sample: Kill at so many boundaries at most, chosen by the seed; None: at all of them.
        seed: For the sample, and for the numbers that Python's ``random`` gives the code.
        only: Kill at this boundary only, such as ``"12:after"``: to repeat a failure.
        attempt_limit: How long one attempt may take.

    Raises:
        CrashError: A difference; the text says where, which, and how to repeat it.
        UnscriptedWaitError: The task waits for something that nobody gives it.
        TestingError: There is no environment, or no boundary of that name.
    """
    world = env or Environment.current
    if world is None:
        raise TestingError("crash_everywhere() needs an environment: use the fixture windlass_env, or give it env=.")
    chosen_seed = random.randrange(1 << 31) if seed is None else seed  # noqa: S311 - for a sample
    look = None if effects is None or isinstance(effects, Effects) else effects
    crashes = _Crashes(world, task, payload, look, reset, chosen_seed, parse_duration(attempt_limit))
    return off_the_loop(lambda: crashes.everywhere(sample, only, exactly_once=exactly_once, same=same))


class _Crashes:
    """One call of :func:`crash_everywhere`."""

    def __init__(
        self,
        env: Environment,
        task: Task[Any, Any],
        payload: Any,
        look: Callable[[], Any] | None,
        reset: Callable[[], object],
        seed: int,
        limit: timedelta,
    ) -> None:
        self._env = env
        self._task = task
        self._payload = payload
        self._look = look
        self._reset = reset
        self._seed = seed
        self._limit = limit
        self._runs = 0

    def everywhere(
        self, sample: int | None, only: str | None, *, exactly_once: bool, same: Callable[[Any], Any]
    ) -> CrashReport:
        began = time.monotonic()
        calm = self._pass()
        names = _numbered(calm.boundaries)
        chosen = self._choose(list(names), sample, only)
        self._say(f"{len(names)} boundaries, {len(chosen)} to try, seed {self._seed}")
        failed: list[str] = []
        missed: list[str] = []
        said = time.monotonic()
        for done, name in enumerate(chosen):
            if time.monotonic() - said > _SAY_EVERY:
                said = time.monotonic()
                self._say(f"{done} of {len(chosen)} boundaries tried, {len(failed)} failed")
            crashed = self._pass(names[name])
            if crashed.killed is None:
                missed.append(name)
            found = differences(calm, crashed, exactly_once=exactly_once, same=same)
            if found:
                failed.append(self._told(name, names[name], found))
                if len(failed) == _ENOUGH:
                    break
        if failed:
            raise CrashError(self._failure(failed, len(chosen), calm, exactly_once=exactly_once, same=same))
        found_out = CrashReport(len(names), len(chosen), self._seed, tuple(missed), time.monotonic() - began)
        self._say(str(found_out))
        return found_out

    def _choose(self, names: list[str], sample: int | None, only: str | None) -> list[str]:
        if only is not None:
            if only not in names:
                raise TestingError(f"There is no boundary {only!r}; there are {', '.join(names)}.")
            return [only]
        if sample is None or sample >= len(names):
            return names
        taken = set(random.Random(self._seed).sample(names, sample))  # noqa: S311 - a sample
        return [name for name in names if name in taken]

    def _pass(self, kill: Boundary | None = None) -> Passage:
        """Run the task once, with one kill or none."""
        self._env.reset(_START)
        self._reset()
        self._runs += 1
        with self._killing(kill):
            run = self._env.run(self._task, self._payload)
        error = run.error
        return read(
            entries(self._env.journal),
            state=run.state,
            result=run.result if run.state == "Succeeded" else None,
            error=None if error is None else f"{error.failure_type}: {error.failure_message}",
            given=None if self._look is None else self._look(),
        )

    @contextmanager
    def _killing(self, kill: Boundary | None) -> Iterator[None]:
        labels: dict[str, str] = {}
        before = self._env.execute

        def run(ready: Ready) -> None:
            attempt = ready.attempt
            label = labels.setdefault(attempt.run_id, self._label(attempt.task, list(labels.values())))
            place = f"{label}, attempt {attempt.number}"

            def call() -> None:
                random.seed(f"{self._seed}/{self._runs}/{place}")  # a copy would go on with its parent's numbers
                points = Points(self._env.journal, place, kill)
                transport = CrashingTransport(ready.url, attempt.token, points, label)
                # Of the origin are made idempotency keys and windlass.random(): they are the same in each pass.
                seen = watching(points, label)
                report(execute(ready.task, attempt, transport, origin=label, checkpoints_of=seen), transport)

            code = run_forked(ready, call, limit=self._limit)
            if code == -signal.SIGKILL and kill is not None:
                self._env.lose(attempt.attempt_id, "crash_everywhere() killed the process.")
            elif code != 0:
                _crashed(ready, code)

        self._env.execute = run
        try:
            yield
        finally:
            self._env.execute = before

    @staticmethod
    def _label(task: str, taken: list[str]) -> str:
        """Return a name for a run that is the same whenever the task runs."""
        count = sum(label.partition(" ")[0] == task for label in taken) + 1
        return task if count == 1 else f"{task} {count}"

    def _told(self, name: str, boundary: Boundary, found: list[str]) -> str:
        lines = "\n".join(f"    {sentence}" for sentence in found)
        return (
            f"{name}  killed {_moment(boundary)}\n{lines}\n"
            f"    Repeat: crash_everywhere({self._task.function.__name__}, ..., seed={self._seed}, only={name!r})"
        )

    def _failure(
        self, failed: list[str], tried: int, calm: Passage, *, exactly_once: bool, same: Callable[[Any], Any]
    ) -> str:
        again = differences(calm, self._pass(), exactly_once=exactly_once, same=same)
        steady = ""
        if again:
            steady = (
                "\nTwo runs without any crash differ as well, so first make them the same: read what changes from "
                "windlass.now(), random() or uuid(), make stand-ins answer the same, or say with same= what of the "
                "result counts.\n    " + "\n    ".join(again)
            )
        most = " (and no more were tried)" if len(failed) == _ENOUGH else ""
        head = f"{self._task.name} is not the same after a crash at {len(failed)} of {tried} boundaries{most}:"
        return "\n\n".join([head, *failed]) + steady

    def _say(self, text: str) -> None:
        print(f"crash_everywhere({self._task.name}): {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress, for people


def _crashed(ready: Ready, code: int) -> None:
    """Report the end of a process that we have not killed, in the words of a real runner."""
    how = f"ended with exit code {code} and no result" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    failure = protocol.Failure(type="ChildCrashed", message=f"The code's process {how}.")
    transport = AttemptTransport(ready.url, ready.attempt.token)
    transport.fail(protocol.FailRequest(failure=failure))
    transport.close()


def _numbered(boundaries: list[Boundary]) -> dict[str, Boundary]:
    """Return the boundaries by their short names: a number for each place, and the moment."""
    numbers: dict[str, int] = {}
    for name, _ in boundaries:
        numbers.setdefault(name, len(numbers) + 1)
    found = {f"{numbers[name]}:{moment}": (name, moment) for name, moment in boundaries}
    return dict(
        sorted(found.items(), key=lambda item: (int(item[0].partition(":")[0]), item[0].endswith(("after", "end"))))
    )


def _moment(boundary: Boundary) -> str:
    name, moment = boundary
    words = {
        "before": f"before the call was sent: {name}",
        "after": f"after the call was applied, before the code had its answer: {name}",
        "start": f"at the start of the {name.partition(': ')[2]} ({name.partition(':')[0]})",
        "end": f"at the end of the {name.partition(': ')[2]}, before its checkpoint ({name.partition(':')[0]})",
    }
    return words[moment]
