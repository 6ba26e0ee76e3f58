"""What a doctor finds, and how it is told: by ``windlass doctor`` and ``windlass-operator doctor`` alike."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

State = Literal["ok", "warn", "fail"]

_COLOURS: Final = {"ok": 32, "warn": 33, "fail": 31}


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        check: What was looked at, in one word or two.
        state: ``ok``; ``warn``: it works, or it could not be told; ``fail``: it does not work.
        message: What was found.
        mend: What to do; empty where nothing has to be done.
    """

    check: str
    state: State
    message: str
    mend: str = ""

    def line(self, *, coloured: bool = False) -> str:
        """Return it as people read it: one line, and one more if there is something to do."""
        state = f"{self.state:<4}"
        if coloured:
            state = f"\x1b[{_COLOURS[self.state]}m{state}\x1b[0m"
        text = f"{state}  {self.check:<14}{' '.join(self.message.split())}"
        return f"{text}\n{'':20}→ {self.mend}" if self.mend else text

    def data(self) -> dict[str, Any]:
        """Return it for programs."""
        return {key: value for key, value in asdict(self).items() if value}


def failed(findings: Iterable[Finding]) -> bool:
    """Whether something does not work."""
    return any(finding.state == "fail" for finding in findings)
