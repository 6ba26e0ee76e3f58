"""``python -m bench.gate [--write]``: is this tree slower than what is written down in ``bench/baseline.json``?"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.gate_rules import FEWEST, Allowed, Verdict, report, verdict
from bench.probe import Round, probing

_BASELINE: Final = Path(__file__).with_name("baseline.json")
_SECONDS: Final = float(os.environ.get("WINDLASS_GATE_SECONDS", "90"))
_MOST: Final = 24
_WRITES: Final = 20
"""Rounds of ``--write``: what is compared with for long is worth them."""
_TOLERANCES: Final = {"log": 0.15, "CPU": 0.3, "time": 0.6}
"""By what a figure is about: a busy machine changes bytes hardly, CPU a little, and times most."""


def ratios(one: Round) -> dict[str, float]:
    """Return the figures of a round: each is ours by the same thing without Windlass, so no unit is left."""
    return {
        "time of a step": one.step / one.bare_save,
        "CPU of the API for a step": one.each_step.api * 1000 / one.bare_api,
        "CPU of the API for a trigger": one.trigger / one.bare_api,
        "CPU of PostgreSQL for a step": one.each_step.database * 1000 / one.bare_database,
        "CPU of a runner's imports": one.imports / one.bare_imports,
        "log of a step": one.each_step.log / one.bare_log,
        "log of an empty run": one.empty.log / one.bare_log,
    }


def written() -> dict[str, Allowed]:
    """Return what is written down."""
    found = json.loads(_BASELINE.read_text())
    return {name: Allowed(one["ratio"], one["tolerance"]) for name, one in found.items()}


def write(series: Mapping[str, list[float]]) -> None:
    """Write the medians down, each with the tolerance of its kind."""
    rows = {
        name: {"ratio": round(statistics.median(values), 3), "tolerance": _TOLERANCES[name.split()[0]]}
        for name, values in series.items()
    }
    _BASELINE.write_text(json.dumps(rows, indent=2) + "\n")


async def measure(baseline: Mapping[str, Allowed] | None) -> dict[str, list[float]]:
    """Do rounds until everything is clear, or time is up; without a baseline, a fixed number."""
    series: dict[str, list[float]] = {}
    until = time.monotonic() + _SECONDS
    async with probing() as probe:
        await probe.round()  # caches, and pages that are logged as a whole when they change for the first time
        for number in range(_MOST if baseline else _WRITES):
            for name, value in ratios(await probe.round()).items():
                series.setdefault(name, []).append(value)
            if baseline is None or number + 1 < FEWEST:
                continue
            clear = all(
                verdict(series[name], baseline[name]) is not Verdict.UNCLEAR for name in series if name in baseline
            )
            if clear or time.monotonic() > until:
                break
    return series


def main() -> int:
    """Measure and judge, or write down. Returns the exit code."""
    if "--write" in sys.argv:
        write(asyncio.run(measure(None)))
        print(f"written to {_BASELINE.name}")
        return 0
    baseline, began = written(), time.monotonic()
    lines, complaints = report(asyncio.run(measure(baseline)), baseline)
    print(*lines, sep="\n")
    if complaints:
        print("\nbench-gate: this tree is slower than what is written down:", *complaints, sep="\n  ")
        print("If that is meant, write it down: `make bench-baseline`, and say why in the commit.")
        return 1
    print(f"bench-gate: nothing is slower than what is written down ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
