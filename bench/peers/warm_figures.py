"""What the warm rounds say: a table of everybody, and figures of ours beside each peer. Pure, but for printing."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench import report
from bench.peers.bursts import quantile
from bench.peers.installed import version
from bench.peers.ours_warm import FORKED, IN_PROCESS, KINDS, NOT_MEASURED

_PACKAGES: Final = {
    "procrastinate": "procrastinate",
    "DBOS": "dbos",
    "Restate": "restate-server",
    "Temporal": "temporal-server",
}
_ALONE: Final = "trigger → first user line, idle worker"
_RUNS: Final = "no-op runs/s end to end, 64 clients"
_STEPS: Final = "durable steps/s, 100 concurrent runs"

Costs = tuple[float, float, float, float | None]
"""Of each: milliseconds of CPU of programs, database and client; bytes of log."""


@dataclass
class Found:
    """What the rounds said of one contestant: one value for each round, but for ``alone``.

    Attributes:
        alone: Milliseconds from the trigger to the first line, of each run of all rounds.
        alone_medians: The same, the median of each round.
        runs: Runs for a second.
        steps: Steps for a second; empty for who has none.
        run_costs: Of a run.
        step_costs: Of a step, with its share of its run.
        syncs: Of the log for a run, one after the other.
    """

    alone: list[float] = field(default_factory=list)
    alone_medians: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    run_costs: list[Costs] = field(default_factory=list)
    step_costs: list[Costs] = field(default_factory=list)
    syncs: float = 0.0


def table(found: Mapping[str, Found]) -> list[str]:
    """Return the lines of a table of all contestants, ours first."""
    heads = [
        *("", "first line p50", "p99", "of", "runs/s", "CPU-ms a run: programs, database, client", "log a run"),
        *("syncs a run", "steps/s", "CPU-ms a step", "log a step"),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {name} |{' not measured |' * 10}" for name in KINDS if name not in found]
    for name, one in found.items():
        first = f"{quantile(one.alone, 0.5):.1f} ms | {quantile(one.alone, 0.99):.1f} ms | {len(one.alone)}"
        rows = f"{_spread(one.runs)} | {_cpu(one.run_costs)} | {_log(one.run_costs)} | {one.syncs:.1f}"
        steps = f"{_spread(one.steps)} | {_cpu(one.step_costs)} | {_log(one.step_costs)}" if one.steps else "- | - | -"
        lines.append(f"| {_full(name)} | {first} | {rows} | {steps} |")
    return lines


def figures(found: Mapping[str, Found]) -> list[report.Figure]:
    """Return ours beside each peer, with the goals; a contestant of ours that is not there has no figure."""
    made = [
        *_of(found, FORKED, _ALONE, "ms", _alone, goal="<=8"),
        *_of(found, IN_PROCESS, _ALONE, "ms", _alone, goal="<=2.5", peers={"Restate": "ratio<=1.0"}),
        *_of(found, FORKED, f"{_ALONE}, p99", "ms", _late, goal="<=30"),
        *_of(found, FORKED, _RUNS, "runs/s", _runs, goal=">=500"),
    ]
    ratios = {"Restate": "ratio>=2", "DBOS": "ratio>=5", "procrastinate": "ratio>=3"}
    made += _of(found, IN_PROCESS, _RUNS, "runs/s", _runs, goal=">=2000", peers=ratios)
    made += _of(found, IN_PROCESS, _STEPS, "steps/s", _steps, peers={"DBOS": "ratio>=3", "Restate": "ratio>=1.5"})
    made += _of(found, FORKED, _STEPS, "steps/s", _steps)
    return made


def _of(
    found: Mapping[str, Found],
    ours: str,
    what: str,
    unit: str,
    read: Callable[[Found], list[float]],
    *,
    goal: str = "",
    peers: Mapping[str, str] | None = None,
) -> list[report.Figure]:
    """Return the figure of one contestant of ours by itself, then beside each peer that has such a row.

    Of a contestant that is not there, only what has a goal: an open goal must be seen, the rest stands in the table.
    """
    wanted = [("", goal), *((peer, (peers or {}).get(peer, "")) for peer in found if peer not in KINDS)]
    name, made = f"{what}: {ours}", []
    for peer, asked in wanted:
        theirs = (_full(peer), read(found[peer])) if peer else None
        if theirs is not None and not theirs[1]:
            continue
        if ours not in found and not asked:
            continue
        if ours in found:
            made.append(report.figure(name, read(found[ours]), unit, peer=theirs, goal=asked))
        else:
            made.append(report.unmeasured(name, NOT_MEASURED, unit, peer=theirs, goal=asked))
    return made


def _alone(one: Found) -> list[float]:
    return one.alone_medians


def _late(one: Found) -> list[float]:
    return [quantile(one.alone, 0.99)]


def _runs(one: Found) -> list[float]:
    return one.runs


def _steps(one: Found) -> list[float]:
    return one.steps


def _full(name: str) -> str:
    """Return a contestant's name with its version."""
    peer = next((peer for peer in _PACKAGES if name.startswith(peer)), None)
    return f"{peer} {version(_PACKAGES[peer])}{name.removeprefix(peer)}" if peer else name


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _cpu(costs: Sequence[Costs]) -> str:
    return ", ".join(f"{statistics.median(cost[n] or 0 for cost in costs):.2f}" for n in range(3))


def _log(costs: Sequence[Costs]) -> str:
    told = [cost[3] for cost in costs if cost[3] is not None]
    return f"{statistics.median(told):.0f} B" if told else "-"
