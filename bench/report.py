"""Figures: printed as a table, and written to ``.bench/latest.json``."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).resolve().parents[1] / ".bench" / "latest.json"


@dataclass
class Figure:
    """One figure.

    Attributes:
        name: What was measured.
        ours: Our figure; None where this tree cannot be measured, and then nothing stands in its place.
        unit: Its unit.
        peer: Name and figure of what we compare with, or None.
        ratio: Ours by the peer's, or None.
        goal: Such as ``<=0.5`` on ours or ``ratio<=1.25``; empty for a figure without one.
    """

    name: str
    ours: float | None
    unit: str
    peer: dict[str, Any] | None = None
    ratio: float | None = None
    goal: str = ""


def figure(
    name: str, ours: list[float], unit: str, *, peer: tuple[str, list[float]] | None = None, goal: str = ""
) -> Figure:
    """Return the medians of a series and of its peer's, and the median of the paired ratios; print the spread."""
    median = statistics.median(ours)
    spread = f"{min(ours):.3g} to {max(ours):.3g}"
    if peer is None:
        print(f"{name}: {median:.3g} {unit} (p50; {spread}){_goal(goal, median, None)}")
        return Figure(name, round(median, 4), unit, goal=goal)
    theirs = statistics.median(peer[1])
    ratios = [a / b for a, b in zip(ours, peer[1], strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"{name}: {median:.3g} {unit} (p50; {spread}); {peer[0]}: {theirs:.3g} {unit}; "
        f"paired ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}){_goal(goal, median, ratio)}"
    )
    return Figure(name, round(median, 4), unit, {"name": peer[0], "value": round(theirs, 4)}, round(ratio, 3), goal)


def single(name: str, ours: float, unit: str, *, peer: tuple[str, float] | None = None, goal: str = "") -> Figure:
    """Return one measured value beside its peer's, and print both."""
    if peer is None:
        print(f"{name}: {ours:.3g} {unit}{_goal(goal, ours, None)}")
        return Figure(name, round(ours, 4), unit, goal=goal)
    ratio = ours / peer[1]
    print(f"{name}: {ours:.3g} {unit}; {peer[0]}: {peer[1]:.3g} {unit}; ratio {ratio:.2f}{_goal(goal, ours, ratio)}")
    return Figure(name, round(ours, 4), unit, {"name": peer[0], "value": round(peer[1], 4)}, round(ratio, 3), goal)


def unmeasured(
    name: str, why: str, unit: str, *, peer: tuple[str, list[float]] | None = None, goal: str = ""
) -> Figure:
    """Return the peer's figure with none of ours beside it, and print why."""
    print(f"{name}: not measured ({why}){_peer(peer, unit)}{f'; goal {goal}: open' if goal else ''}")
    theirs = None if peer is None else {"name": peer[0], "value": round(statistics.median(peer[1]), 4)}
    return Figure(name, None, unit, theirs, goal=goal)


def _peer(peer: tuple[str, list[float]] | None, unit: str) -> str:
    if peer is None:
        return ""
    return f"; {peer[0]}: {statistics.median(peer[1]):.3g} {unit} ({min(peer[1]):.3g} to {max(peer[1]):.3g})"


def _goal(goal: str, ours: float, ratio: float | None) -> str:
    if not goal:
        return ""
    value = ratio if goal.startswith("ratio") else ours
    bound = goal.removeprefix("ratio")
    limit = float(bound[2:])
    met = value is not None and (value <= limit if bound.startswith("<=") else value >= limit)
    return f"; goal {goal}: {'met' if met else 'MISSED'}"


def write(figures: list[Figure]) -> None:
    """Write the figures of this run."""
    _FILE.parent.mkdir(exist_ok=True)
    _FILE.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")
    print(f"written to {_FILE.relative_to(_FILE.parents[1])}")
