"""What the rounds of fresh pods say: a table of everybody, and figures of ours beside each of the others."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench import report
from bench.peers.go_programs import ARGO as MODULE
from bench.peers.pod_kinds import ARGO, OURS, PODS

UNTUNED: Final = f"{ARGO} as it comes"
_FIRST: Final = "created → first line of user code, fresh pod"
_LAST: Final = "60 at once, created → last first line"
_SEEN: Final = "60 at once, created → all seen to have succeeded"

_CPU: Final = "60 at once, CPU of the node's pods for each"


@dataclass(frozen=True)
class Turn:
    """One turn of one contestant.

    Attributes:
        first: Seconds until the last of its pods was in its first line.
        seen: Seconds until all were seen to have succeeded.
        cpu: Seconds of CPU of all pods of the node in that time, whoever's, divided by the number of its pods.
    """

    first: float
    seen: float
    cpu: float


@dataclass
class Found:
    """What the rounds said of one contestant.

    Attributes:
        alone: Seconds to the first line of each single pod; empty for who takes part in crowds only.
        crowds: One turn for each round.
    """

    alone: list[float] = field(default_factory=list)
    crowds: list[Turn] = field(default_factory=list)

    def firsts(self) -> list[float]:
        """Return the seconds to each crowd's last first line."""
        return [turn.first for turn in self.crowds]

    def cpu(self) -> list[float]:
        """Return the seconds of CPU for one pod of each crowd."""
        return [turn.cpu for turn in self.crowds]

    def seen(self) -> list[float]:
        """Return the seconds until each crowd was seen to have succeeded."""
        return [turn.seen for turn in self.crowds]


def table(found: Mapping[str, Found]) -> list[str]:
    """Return the lines of a table of all contestants."""
    lines = [f"| | {_FIRST} | {_LAST} | {_SEEN} | {_CPU} |", "|---|---|---|---|---|"]
    for name, one in found.items():
        rows = (one.alone, one.firsts(), one.seen(), one.cpu())
        lines.append(f"| {_full(name)} | {' | '.join(_spread(row) for row in rows)} |")
    return lines


def figures(found: Mapping[str, Found]) -> list[report.Figure]:
    """Return ours by itself where there is a goal for that, and beside each of the others."""
    ours = found[OURS]
    made = [report.figure(_FIRST, ours.alone, "s", goal="<=0.5")]
    rows: tuple[tuple[str, dict[str, list[float]], dict[str, str]], ...] = (
        (_FIRST, {name: one.alone for name, one in found.items()}, {PODS: "ratio<=2"}),
        (_LAST, {name: one.firsts() for name, one in found.items()}, {PODS: "ratio<=1.25", ARGO: "ratio<=0.333"}),
        (_SEEN, {name: one.seen() for name, one in found.items()}, {}),
    )
    for what, seconds, goals in rows:
        for peer, theirs in seconds.items():
            if peer != OURS and theirs:
                goal = goals.get(peer, "")
                made.append(report.figure(what, seconds[OURS], "s", peer=(_full(peer), theirs), goal=goal))
    return made


def _full(name: str) -> str:
    """Return a contestant's name with its version."""
    return name.replace(ARGO, f"{ARGO} {MODULE.version.removeprefix('v')}")


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
