"""The retry policy of a task, as user code writes it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal


@dataclass(frozen=True)
class Retry:
    """How often and how fast failures of your code are tried again.

    Attributes:
        max_attempts: Attempts in all, the first included.
        min_delay: Longest pause after the first failure: a duration such as ``"1s"``.
        factor: By how much the pause grows with each further failure.
        max_delay: The pause never grows beyond this.
        jitter: ``full`` draws each pause evenly between nothing and its full length; ``none`` takes the full length.
    """

    max_attempts: int = 3
    min_delay: str | timedelta = "1s"
    factor: float = 2.0
    max_delay: str | timedelta = "60s"
    jitter: Literal["full", "none"] = "full"
