"""What a burst of runs says when everything that was promised has happened. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


class LostRunsError(RuntimeError):
    """A run or a step did not happen exactly once: the times of such a burst mean nothing."""


@dataclass(frozen=True)
class Ended:
    """A run whose result its client has read. Times are nanoseconds of the machine's monotonic clock."""

    key: str
    triggered: int
    readable: int


@dataclass(frozen=True)
class Cost:
    """What a burst used.

    Attributes:
        workers: Seconds of CPU of the programs that run and store, without a database server.
        database: Seconds of CPU of PostgreSQL; zero where it is not used.
        client: Seconds of CPU of the client process.
        wal: Bytes of log; None where nobody tells.
    """

    workers: float
    database: float
    client: float
    wal: int | None

    def each(self, count: int) -> tuple[float, float, float, float | None]:
        """Return milliseconds of CPU of programs, database and client, and bytes of log, for each of so many."""
        wal = None if self.wal is None else self.wal / count
        return self.workers / count * 1000, self.database / count * 1000, self.client / count * 1000, wal


def expected(runs: Sequence[Ended], steps: int) -> list[str]:
    """Return the keys of the effects that these runs must leave: each run's, or those of its steps."""
    if not steps:
        return [run.key for run in runs]
    return [f"{run.key}#{n}" for run in runs for n in range(steps)]


def check(name: str, runs: Sequence[Ended], count: int, steps: int, found: Counter[str]) -> None:
    """Make sure that every run ended and that everything happened once.

    Args:
        name: Of the contestant.
        runs: Whose results were read.
        count: How many were triggered.
        steps: Of each run; zero for a run without steps.
        found: How often each effect stands in the table of effects.

    Raises:
        LostRunsError: Something is missing, or happened twice.
    """
    wanted = expected(runs, steps)
    wrong = [key for key in wanted if found[key] != 1]
    if len(runs) != count or wrong or found.total() != len(wanted):
        example = f", such as {wrong[0]}: {found[wrong[0]]} times" if wrong else ""
        raise LostRunsError(
            f"{name}: of {count} runs {len(runs)} ended; of {len(wanted)} effects {len(wrong)} did not happen "
            f"exactly once{example}; {found.total()} effects in all."
        )


def rate(runs: Sequence[Ended], steps: int = 0) -> float:
    """Return runs, or steps, for a second: from the first trigger until the last result could be read."""
    seconds = (max(run.readable for run in runs) - min(run.triggered for run in runs)) / 1e9
    return len(runs) * max(steps, 1) / seconds


def waits(runs: Sequence[Ended], began: dict[str, int]) -> list[float]:
    """Return the milliseconds from each run's trigger to the first line of its body."""
    return [(began[run.key] - run.triggered) / 1e6 for run in runs]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all did not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
