"""The rules that hold of every ledger at every moment, and whether they hold of this one.

Used by ``windlass-operator doctor --verify-ledger`` on any installation, and by tests after each of their runs.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from windlass_operator.ledger import invariants
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.invariants import FIRST, LAST, Broken

LATE: Final = timedelta(minutes=10)
"""What follows from something else in a transaction of its own is done within seconds, also after an outage."""
_PAGE: Final = 5000
_SHOWN: Final = 100
"""Violations of one check that are kept; the others are only counted."""
_AGAIN: Final = 0.5
"""Seconds after which what was found is looked for again."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule.

    Attributes:
        name: Of its statement.
        code: The invariant that it is a part of.
        holds: What must hold.
        mend: What to do where it does not.
    """

    name: str
    code: str
    holds: str
    mend: str


_REPORT: Final = "Keep the ledger as it is (pg_dump) and report it: `windlass runs get` has the run's story."
_END: Final = "It will not end by itself: `windlass runs cancel`, then trigger it again."
_RESTORE: Final = (
    "Was the ledger restored, or edited by hand? Restore it as a whole, with all tables of schema windlass."
)
_LOOPS: Final = "Does an operator lead, and do its loops run? See its log, and the alert WindlassLoopStands."

CHECKS: Final = (
    Check("one_end", "I1", "A finished run has exactly one event of its end; one that goes on has none.", _REPORT),
    Check("queue_entries", "I1", "The queue has exactly the runs that may start.", _END),
    Check("late", "I1", "What must follow has followed.", _LOOPS),
    Check(
        "checkpoints",
        "I2",
        "Each step has one row, of an attempt that there was, with an end if it has ended.",
        _REPORT,
    ),
    Check("fence", "I3", "A closed attempt has written nothing.", _REPORT),
    Check("attempt_ends", "I3", "An attempt is open, or closed with an outcome; only the last one is open.", _REPORT),
    Check("attempt_numbers", "I3", "Attempts are numbered from 1 without a gap.", _RESTORE),
    Check("open_attempts", "I4", "A run that runs has one open attempt; any other has none.", _END),
    Check("revisions", "I5", "Nothing shows more of a run than there is.", _RESTORE),
    Check("logs", "I6", "Log lines of an attempt have no gap, or a line says so.", _REPORT),
    Check("waits", "I1", "A run waits for what it has begun to wait for, and its steps say the same.", _END),
    Check("events_taken", "I8", "A wait takes one event, and is over by it.", _REPORT),
    Check("idempotency", "I8", "An idempotency key stands for one run, and a resource shows one.", _REPORT),
    Check("charges", "I9", "Each failure is charged to who had to answer for it.", _REPORT),
    Check("budgets", "I9", "No run fails more often than its limits allow.", _REPORT),
    Check("transitions", "I10", "A run goes from state to state as the table of states says.", _REPORT),
    Check("last_event", "I10", "A run's state is the one that its last event led to.", _REPORT),
    Check("children", "I8", "A run that was started by another knows it, and is known to it.", _REPORT),
    Check(
        "compensations", "I10", "What a run that did not succeed has done was undone, or it says what was not.", _REPORT
    ),
    Check("values", "I11", "Each large value that is referred to is recorded.", _RESTORE),
    Check("orphans", "I11", "Nothing belongs to a run that is not there.", _RESTORE),
)
"""Of the runs, page by page."""

WHOLE: Final = (
    Check("keys", "I8", "Each idempotency key stands for a run that has it.", _RESTORE),
    Check(
        "schema",
        "I2",
        "The schema has the rules that hold under race.",
        "Restore the schema: `windlass-operator migrate` on a fresh database shows how it must be.",
    ),
)
"""Of the ledger as a whole."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that does not hold.

    Attributes:
        code: The invariant.
        message: What is wrong.
        run_id: Of which run; None where it is of none.
        check: Name of the rule within the invariant.
        mend: What to do.
        namespace: Where it is, of what lies outside of the ledger.
    """

    code: str
    message: str
    run_id: UUID | None = None
    check: str = ""
    mend: str = ""
    namespace: str | None = None


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        runs: How many runs were looked at.
        counts: Violations by check, those that are not kept included. What is not in it was not looked at.
        violations: The first ones of each check.
        skipped: Why a check was not made, by its name.
    """

    runs: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, checks: Sequence[Check], broken: Sequence[Broken]) -> None:
        """Count what these checks found, and keep the first ones."""
        by_name = {check.name: check for check in checks}
        for name in by_name:
            self.counts.setdefault(name, 0)
        for found in broken:
            check = by_name[found.check]
            self.counts[check.name] += 1
            if self.counts[check.name] <= _SHOWN:
                self.violations.append(
                    Violation(check.code, found.message, found.run_id, check.name, check.mend, found.namespace)
                )


class InvariantService:
    """Looks at a ledger, also at one that is in use: it writes nothing, and holds no lock and no snapshot for long.

    Args:
        database: The ledger.
        page: Runs that are looked at in one snapshot.
        late: How long what follows from something else may take.
        again: Seconds after which what was found is looked for again: only what is found twice is told.
    """

    def __init__(self, database: Database, *, page: int = _PAGE, late: timedelta = LATE, again: float = _AGAIN) -> None:
        self._database = database
        self._page = page
        self._late = late
        self._again = again

    async def check(self) -> list[Violation]:
        """Return what does not hold; nothing, if all is well.

        Raises:
            InvariantsTooSlowError: The ledger is too busy to be looked at in pages of this size.
        """
        reports = [report async for report in self.examine()]
        return reports[-1].violations

    async def examine(self) -> AsyncIterator[Report]:
        """Look at everything, and yield what is known after each page."""
        report = Report()
        _, broken = await self._twice(WHOLE, LAST)
        report.add(WHOLE, broken)
        after = FIRST
        while after != LAST:
            page, broken = await self._twice(CHECKS, after)
            report.runs += page.runs
            report.add(CHECKS, broken)
            after = page.until
            yield report

    async def _twice(self, checks: tuple[Check, ...], after: UUID) -> tuple[invariants.Page, list[Broken]]:
        """Look, and look again if something was found.

        A claim deletes the entry of a run that somebody else has just ended when it commits itself, a moment later.
        """
        page = await self._look([check.name for check in checks], after)
        if not page.broken:
            return page, []
        await asyncio.sleep(self._again)
        names = list(dict.fromkeys(found.check for found in page.broken))
        now = {(found.check, found.run_id): found for found in (await self._look(names, after)).broken}
        return page, [found for found in page.broken if (found.check, found.run_id) in now]

    async def _look(self, names: list[str], after: UUID) -> invariants.Page:
        return await invariants.look(self._database, names, after=after, size=self._page, late=self._late, limit=_SHOWN)
