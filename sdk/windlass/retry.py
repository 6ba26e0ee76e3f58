"""The retry policy of a task, as user code writes it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from windlass.durations import parse_duration


@dataclass(frozen=True)
class Retry:
    """How often and how fast failures of your code are tried again.

    Attributes:
        max_attempts: Attempts in all, the first included.
        min_delay: Longest pause after the first failure: a duration such as ``"1s"``.
        factor: By how much the pause grows with each further failure.
        max_delay: The pause never grows beyond this.
        jitter: ``full`` draws each pause evenly between nothing and its full length; ``none`` takes the full length.

    Raises:
        ValueError: A number out of its range, or a text that is not a duration.
    """

    max_attempts: int = 3
    min_delay: str | timedelta = "1s"
    factor: float = 2.0
    max_delay: str | timedelta = "60s"
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 1000:
            raise ValueError(f"Retry(max_attempts={self.max_attempts}): write 1 (no retry) to 1000.")
        if not 1 <= self.factor <= 100:
            raise ValueError(f"Retry(factor={self.factor}): write 1 (equal pauses) to 100.")
        if self.jitter not in ("full", "none"):
            raise ValueError(f"Retry(jitter={self.jitter!r}): write 'full' or 'none'.")
        if parse_duration(self.min_delay) > parse_duration(self.max_delay):
            raise ValueError(f"Retry: min_delay {self.min_delay} is longer than max_delay {self.max_delay}.")
