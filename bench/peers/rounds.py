"""Interleaving: who goes when, and what the rounds say. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


class LostStepsError(RuntimeError):
    """A round ran or saved another number of steps than it was asked for: its times mean nothing."""


@dataclass(frozen=True)
class Round:
    """What one contestant did in one round.

    Attributes:
        times: Milliseconds of each step, in order.
        effects: How often a step's body ran.
        saved: Steps that its storage has when the round is over.
    """

    times: list[float]
    effects: int
    saved: int

    def check(self, name: str, count: int) -> None:
        """Make sure that every step ran once and was saved.

        Raises:
            LostStepsError: One was not.
        """
        if not len(self.times) == self.effects == self.saved == count:
            raise LostStepsError(
                f"{name}: of {count} steps {len(self.times)} were timed, {self.effects} ran, {self.saved} saved."
            )


@dataclass
class Series:
    """One contestant's rounds, without each round's first steps: connections and caches are warm on both sides."""

    warm_up: int
    medians: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def add(self, times: Sequence[float]) -> None:
        """Take the times of one round."""
        counted = list(times[self.warm_up :])
        self.medians.append(statistics.median(counted))
        self.times += counted

    def quantile(self, share: float) -> float:
        """Return the time that this share of all steps did not exceed."""
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * share))]


def order(names: Sequence[str], number: int) -> list[str]:
    """Return who goes when in a round: everybody is first, and last, and after everybody else equally often."""
    shift = number // 2 % len(names)
    turned = [*names[shift:], *names[:shift]]
    return turned if number % 2 == 0 else turned[::-1]
