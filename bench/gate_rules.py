"""When a change has made something slower: ratios of one machine, held against ratios that are written down. Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

FEWEST: Final = 6
"""Rounds before anything is said: of fewer, the middle is known to nobody."""
_DOUBT: Final = 0.1


class Verdict(Enum):
    """What the rounds so far say."""

    HELD = "held"
    WORSE = "WORSE"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Allowed:
    """What is written down of one figure.

    Attributes:
        ratio: Ours by the reference's, when it was written down.
        tolerance: The share by which it may be exceeded.
    """

    ratio: float
    tolerance: float

    @property
    def limit(self) -> float:
        """The largest ratio that is allowed."""
        return self.ratio * (1 + self.tolerance)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return between which two of the values the true median lies, with nine chances of ten or more.

    By rank, as many rounds lie above the median as below: no outlier, however far out, moves the interval.
    """
    ranked, count = sorted(values), len(values)
    outside, skipped = 0.0, 0
    while skipped < count // 2:
        outside += 2 * math.comb(count, skipped) / 2**count
        if outside > _DOUBT:
            break
        skipped += 1
    first = max(skipped - 1, 0)
    return ranked[first], ranked[count - 1 - first]


def verdict(ratios: Sequence[float], allowed: Allowed) -> Verdict:
    """Return what these rounds say of one figure; more rounds may make it clear."""
    if len(ratios) < FEWEST:
        return Verdict.UNCLEAR
    low, high = interval(ratios)
    if high <= allowed.limit:
        return Verdict.HELD
    return Verdict.WORSE if low > allowed.limit else Verdict.UNCLEAR


def final(ratios: Sequence[float], allowed: Allowed) -> Verdict:
    """Return the verdict when there is no time for more rounds: what is still unclear is decided by the median."""
    found = verdict(ratios, allowed)
    if found is not Verdict.UNCLEAR:
        return found
    return Verdict.WORSE if statistics.median(ratios) > allowed.limit else Verdict.HELD


def report(series: Mapping[str, Sequence[float]], baseline: Mapping[str, Allowed]) -> tuple[list[str], list[str]]:
    """Return a line for each figure, and the complaints: none if everything held.

    A figure that is not written down, or that is written down and was not measured, is a complaint as well.
    """
    lines, complaints = [], []
    for name in sorted({*series, *baseline}):
        if name not in baseline or name not in series:
            missing = "bench/baseline.json" if name in series else "the measurement"
            complaints.append(f"{name}: {missing} does not have it. `make bench-baseline` writes it all down again.")
            continue
        ratios, allowed = series[name], baseline[name]
        found, median = final(ratios, allowed), statistics.median(ratios)
        low, high = interval(ratios)
        about = f"{median:.3g} ({low:.3g} to {high:.3g}, {len(ratios)} rounds); written down {allowed.ratio:.3g}"
        lines.append(f"{found.value:>7}  {name}: {about}, allowed {allowed.limit:.3g}")
        if found is Verdict.WORSE:
            complaints.append(
                f"{name} is {median / allowed.ratio - 1:+.0%} against what is written down, "
                f"and {allowed.tolerance:+.0%} is allowed: {about}."
            )
    return lines, complaints
