"""``make crash``: learn the boundaries of every scenario, then let each of them happen."""

import asyncio
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from tests.crash import checks
from tests.crash.processes import forge
from tests.crash.repetition import Boundary, Ended, Grounds, boundaries
from tests.crash.scenarios import ALL, Scenario
from tests.support.postgres import postgres_server
from tests.support.s3_server import s3_server
from windlass.failpoints import MODES

_BY_NAME: Final = {scenario.name: scenario for scenario in ALL}
_LEARN: Final = 2
"""Learning runs of each scenario: a call is a boundary if all of them made it, so that the next run makes it too."""


class Report:
    """Prints what happens, and counts."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began = time.monotonic()
        self.passed = self.failed = self.missed = 0

    def ended(self, boundary: Boundary, what: Ended) -> None:
        """Note one repetition."""
        done = self.passed + self.failed + 1
        self.missed += not what.struck
        if what.problems:
            self.failed += 1
            print(f"FAILED {boundary} after {what.seconds:.1f} s" + ("" if what.struck else " (never reached)"))
            for problem in what.problems:
                print(f"    {problem}")
            print(what.logs)
            print(f"    again: make crash CRASH_ONLY='{boundary}'", flush=True)
        else:
            self.passed += 1
        if done % 10 == 0 or done == self._total:
            spent = time.monotonic() - self._began
            print(f"  {done} of {self._total}, {spent:.0f} s, {spent / done:.2f} s each", flush=True)


async def crash(
    grounds: Grounds, *, sample: int | None, seed: str, only: str | None, seconds: float, at_once: int
) -> bool:
    """Run what is asked for and return whether something passed and nothing failed.

    Args:
        grounds: Where.
        sample: How many boundaries, or None for all.
        seed: Chooses the sample.
        only: One boundary, as it was printed.
        seconds: After which no other repetition begins; 0 for no limit.
        at_once: Repetitions side by side.
    """
    until = time.monotonic() + (seconds or float("inf"))
    chosen = Boundary.parse(only) if only else None
    if chosen is not None and chosen.scenario not in _BY_NAME:
        raise SystemExit(f"CRASH_ONLY is {only!r}; it must begin with a scenario: {', '.join(_BY_NAME)}.")
    learnt: dict[str, checks.Seen] = {}
    found: list[Boundary] = []
    for scenario in [_BY_NAME[chosen.scenario]] if chosen else ALL:
        learnt[scenario.name], these = await _learn(grounds, scenario)
        found += these
    _print_counts(found)
    if chosen is not None:
        found = [chosen]
    elif sample is not None:
        found = sorted(found, key=lambda boundary: sha256(f"{seed} {boundary}".encode()).digest())[:sample]
        print(f"sample of {len(found)}, seed {seed}", flush=True)
    report = Report(len(found))
    waiting = iter(found)

    async def worker() -> None:
        for boundary in waiting:
            if time.monotonic() > until:
                return
            ended = await grounds.run(_BY_NAME[boundary.scenario], boundary, learnt[boundary.scenario])
            report.ended(boundary, ended)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    if (left := len(found) - report.passed - report.failed) > 0:
        print(f"{left} were not begun: the time for this sample was over")
    if report.missed:
        print(f"{report.missed} boundaries were not reached this time: those runs had no crash")
    print(f"{report.passed} passed, {report.failed} failed")
    return report.passed > 0 and not report.failed


async def _learn(grounds: Grounds, scenario: Scenario) -> tuple[checks.Seen, list[Boundary]]:
    found: list[Boundary] | None = None
    first: checks.Seen | None = None
    for _ in range(_LEARN):
        ended = await grounds.run(scenario)
        if ended.problems or ended.seen is None:
            raise SystemExit(f"{scenario.name} fails without any crash: {ended.problems}\n{ended.logs}")
        if first is not None and (different := first.difference(ended.seen, failures_too=True)):
            raise SystemExit(f"{scenario.name} does not end twice in the same way: {different}")
        first = ended.seen
        these = boundaries(scenario, ended.passed, MODES)
        found = these if found is None else [boundary for boundary in found if boundary in set(these)]
    assert first is not None, "there is a learning run"
    assert found is not None, "and it has made calls"
    print(f"{scenario.name}: {len(found)} boundaries, {ended.seconds:.1f} s without a crash", flush=True)
    return first, found


def _print_counts(found: Sequence[Boundary]) -> None:
    by_role = Counter(boundary.role for boundary in found)
    by_mode = Counter(boundary.mode for boundary in found)
    roles = ", ".join(f"{role} {by_role[role]}" for role in ("runner", "child", "api", "operator"))
    print(f"{len(found)} boundaries: {roles}; {', '.join(f'{mode} {by_mode[mode]}' for mode in MODES)}", flush=True)


async def _main() -> bool:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    main = asyncio.current_task()
    assert main is not None, "this runs in one"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)  # so that servers are ended
    sample = int(os.environ["SAMPLE"]) if os.environ.get("SAMPLE") else None
    with tempfile.TemporaryDirectory() as folder, postgres_server() as postgres, s3_server(Path(folder)) as s3:
        async with forge() as made:
            return await crash(
                Grounds(postgres, s3, made),
                sample=sample,
                seed=os.environ.get("SEED") or secrets.token_hex(4),
                only=os.environ.get("CRASH_ONLY") or None,
                seconds=float(os.environ.get("CRASH_SECONDS") or 0),
                at_once=int(os.environ.get("CRASH_AT_ONCE") or 2),
            )


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(_main()) else 1)
