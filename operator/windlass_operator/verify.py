"""``windlass-operator doctor --verify-ledger``: do the rules of the ledger hold of this one?

It reads and writes nothing, page by page, so it may be asked while runs are running. The text is for people; programs
ask for JSON, which has the same in it.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from windlass_operator.config import Config
from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import CHECKS, WHOLE, Check, InvariantService, Report, Violation

_COLOURS: Final = {"ok": 32, "fail": 31}
_LONGEST: Final = timedelta(minutes=10)
"""For a page. The statements have a limit of their own; nobody waits for this but the person who asked."""
_NAMED: Final = 20
"""Violations of one check that people are shown; ``--json`` has a hundred."""


async def verify(*, as_json: bool, page: int, env: Mapping[str, str] | None = None) -> bool:
    """Look at the configured ledger, print what was found, and return whether all is well.

    Args:
        as_json: For programs.
        page: Runs that are looked at in one snapshot.
        env: The environment; this process's by default.
    """
    config = Config.from_env(os.environ if env is None else env)
    database = Database(config.postgres_uri, size=1, longest=_LONGEST)
    await database.open()
    began = time.monotonic()
    try:
        report = await _examine(InvariantService(database, page=page), shown=sys.stderr.isatty())
    finally:
        await database.close()
    seconds = time.monotonic() - began
    if as_json:
        _print(json.dumps(as_data(report, seconds), indent=2))
    else:
        for line in as_lines(report, seconds, coloured=sys.stdout.isatty()):
            _print(line)
    return not report.violations


async def _examine(service: InvariantService, *, shown: bool) -> Report:
    report = Report()
    async for now in service.examine():
        report = now
        if shown:
            print(f"\r{report.runs:,} runs", end="", file=sys.stderr, flush=True)  # noqa: T201 - the command's progress
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr)  # noqa: T201 - takes the progress away
    return report


def as_data(report: Report, seconds: float) -> dict[str, Any]:
    """Return a report for programs."""
    return {
        "ok": not report.violations,
        "runs": report.runs,
        "seconds": round(seconds, 2),
        "checks": [
            {"code": check.code, "check": check.name, "holds": check.holds, "violations": report.counts[check.name]}
            for check in _in_order()
        ],
        "violations": [
            {**asdict(found), "run_id": str(found.run_id) if found.run_id else None} for found in report.violations
        ],
    }


def as_lines(report: Report, seconds: float, *, coloured: bool = False) -> list[str]:
    """Return a report for people: a line for each check with its count, and what each finding is and what to do."""
    lines = []
    for check in _in_order():
        count = report.counts[check.name]
        state = "fail" if count else "ok"
        said = f"\x1b[{_COLOURS[state]}m{state:<4}\x1b[0m" if coloured else f"{state:<4}"
        lines.append(f"{said}  {check.code:<4}{check.name:<16}{count:>6}  {check.holds}")
        lines += _details(check, [found for found in report.violations if found.check == check.name], count)
    total = sum(report.counts.values())
    lines.append(f"{report.runs:,} runs in {seconds:.1f} s: {total or 'no'} violation{'' if total == 1 else 's'}.")
    return lines


def _details(check: Check, found: Sequence[Violation], count: int) -> list[str]:
    if not found:
        return []
    lines = [f"{'':32}run {one.run_id}: {one.message}" if one.run_id else f"{'':32}{one.message}" for one in found]
    more = [f"{'':32}and {count - _NAMED} more"] if count > _NAMED else []
    return [*lines[:_NAMED], *more, f"{'':32}→ {check.mend}"]


def _in_order() -> list[Check]:
    return sorted((*CHECKS, *WHOLE), key=lambda check: (int(check.code[1:]), check.name))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's own answer
