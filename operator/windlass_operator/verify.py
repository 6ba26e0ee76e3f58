"""``windlass-operator doctor --verify-ledger``: do the ledger's rules hold, and does what lies outside agree?

It reads and writes nothing, page by page, so it may be asked while runs are running. The text is for people; programs
ask for JSON, which has the same in it.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from windlass_operator.blobs.store import BlobMissingError, BlobStore
from windlass_operator.config import Config
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.cluster import KubeCluster
from windlass_operator.kube.errors import KubeConfigError
from windlass_operator.kube.manifests import RunnerSettings
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Database
from windlass_operator.services import outside
from windlass_operator.services.invariants import CHECKS, WHOLE, Check, InvariantService, Report, Violation
from windlass_operator.services.outside import OUTSIDE, POD_CHECKS, RUN_CHECKS, Look, Unreachable
from windlass_operator.services.outside_cluster import PodLook, RunLook
from windlass_operator.services.outside_objects import ObjectLook

_COLOURS: Final = {"ok": 32, "skip": 33, "fail": 31}
_LONGEST: Final = timedelta(minutes=10)
"""For a page. The statements have a limit of their own; nobody waits for this but the person who asked."""
_NAMED: Final = 20
"""Violations of one check that people are shown; ``--json`` has a hundred."""


async def verify(*, as_json: bool, page: int, ledger_only: bool = False, env: Mapping[str, str] | None = None) -> bool:
    """Look at the configured ledger and around it, print what was found, and return whether all is well.

    Args:
        as_json: For programs.
        page: Runs that are looked at in one snapshot.
        ledger_only: Leave out cluster and object store.
        env: The environment; this process's by default.
    """
    config = Config.from_env(os.environ if env is None else env)
    database = Database(config.postgres_uri, size=1, longest=_LONGEST, scans=True)
    await database.open()
    began = time.monotonic()
    try:
        report = await _examine(InvariantService(database, page=page))
        if not ledger_only:
            async with _looks(config, database) as looks:
                await outside.examine(looks, report, told=lambda n: _progress(f"{n:,} differences, looking again"))
        _progress("")
    finally:
        await database.close()
    seconds = time.monotonic() - began
    if as_json:
        _print(json.dumps(as_data(report, seconds), indent=2))
    else:
        for line in as_lines(report, seconds, coloured=sys.stdout.isatty()):
            _print(line)
    return not report.violations


async def _examine(service: InvariantService) -> Report:
    report = Report()
    async for now in service.examine():
        report = now
        _progress(f"{report.runs:,} runs")
    return report


@asynccontextmanager
async def _looks(config: Config, database: Database) -> AsyncIterator[list[Look]]:
    """Lend the looks at cluster and object store, as far as this process can reach them."""
    async with AsyncExitStack() as open_:
        looks: list[Look] = []
        try:
            client = await KubeClient.connect(local_reviews=bool(config.namespaces))
        except KubeConfigError as error:
            looks.append(Unreachable((*POD_CHECKS, *RUN_CHECKS), error.message))
        else:
            open_.push_async_callback(client.close)
            made = RunnerSettings(api_url=config.api_url, identity="secret", runner_image=config.runner_image)
            cluster = KubeCluster(client, made, default_image=config.runner_image, namespaces=config.namespaces)
            looks.append(PodLook(database, cluster, namespaces=config.namespaces))
            looks.append(RunLook(database, cluster, namespaces=config.namespaces))
        store: BlobStore = LedgerBlobs(database, BlobMissingError)
        if config.s3 is not None:
            from windlass_operator.blobs.s3 import S3BlobStore  # late: its client takes long to import

            store = s3 = S3BlobStore(config.s3)
            open_.push_async_callback(s3.close)
        looks.append(ObjectLook(database, store))
        yield looks


def as_data(report: Report, seconds: float) -> dict[str, Any]:
    """Return a report for programs. What was not looked at has no number of violations, and says why."""
    return {
        "ok": not report.violations,
        "runs": report.runs,
        "seconds": round(seconds, 2),
        "checks": [
            {
                "code": check.code,
                "check": check.name,
                "holds": check.holds,
                "violations": report.counts.get(check.name),
                "not_looked_at": report.skipped.get(check.name),
            }
            for check in _in_order(report)
        ],
        "violations": [
            {**asdict(found), "run_id": str(found.run_id) if found.run_id else None} for found in report.violations
        ],
    }


def as_lines(report: Report, seconds: float, *, coloured: bool = False) -> list[str]:
    """Return a report for people: a line for each check with its count, and what each finding is and what to do."""
    lines = []
    for check in _in_order(report):
        if why := report.skipped.get(check.name):
            lines.append(f"{_state('skip', coloured=coloured)}  {_name(check)}{'':>6}  not looked at: {why}")
            continue
        count = report.counts[check.name]
        state = _state("fail" if count else "ok", coloured=coloured)
        lines.append(f"{state}  {_name(check)}{count:>6}  {check.holds}")
        lines += _details(check, [found for found in report.violations if found.check == check.name], count)
    total = sum(report.counts.values())
    unseen = f", {len(report.skipped)} checks not made" if report.skipped else ""
    lines.append(
        f"{report.runs:,} runs in {seconds:.1f} s: {total or 'no'} violation{'' if total == 1 else 's'}{unseen}."
    )
    return lines


def _state(word: str, *, coloured: bool) -> str:
    return f"\x1b[{_COLOURS[word]}m{word:<4}\x1b[0m" if coloured else f"{word:<4}"


def _name(check: Check) -> str:
    return f"{check.code:<4}{check.name:<16}"


def _details(check: Check, found: Sequence[Violation], count: int) -> list[str]:
    if not found:
        return []
    lines = [f"{'':32}run {one.run_id}: {one.message}" if one.run_id else f"{'':32}{one.message}" for one in found]
    more = [f"{'':32}and {count - _NAMED} more"] if count > _NAMED else []
    return [*lines[:_NAMED], *more, f"{'':32}→ {check.mend}"]


def _in_order(report: Report) -> list[Check]:
    made = (
        check for check in (*CHECKS, *WHOLE, *OUTSIDE) if check.name in report.counts or check.name in report.skipped
    )
    return sorted(made, key=lambda check: (int(check.code[1:]), check.name))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)  # noqa: T201 - the command's progress


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's own answer
