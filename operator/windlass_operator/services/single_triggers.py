"""Triggers that come at the same time are written together, and each is answered alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.ledger import intake, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.batch import Batches
from windlass_operator.services.submitted import Accepted, Prepared, SomeRefusedError, new_run

log = structlog.get_logger()

_AT_ONCE: Final = 200
"""Single triggers in one transaction at most: with the largest payloads that a row may have they are 12 MiB."""

_BY_TIME: Final = attrgetter("int")
"""The order of UUIDs without their own comparison, which takes longer than to make one."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of a single trigger."""

    prepared: Prepared
    became: Accepted | Exception


class Insert(Protocol):
    """Writes submissions in a transaction; see :meth:`SubmissionService.insert`."""

    async def __call__(
        self,
        connection: Connection,
        project_id: int,
        project: Project,
        prepared: Sequence[Prepared],
        *,
        refused: dict[UUID, WindlassError],
    ) -> list[Accepted]:
        """Write them."""
        ...


class SingleTriggers:
    """Writes what many callers submit one by one. One instance a process.

    Args:
        database: The ledger.
        insert: Writes those that take more than one statement.
    """

    def __init__(self, database: Database, insert: Insert) -> None:
        self._database = database
        self._insert = insert
        self._batches: Batches[Project, Prepared, _Written] = Batches(self._write, limit=_AT_ONCE)

    async def __call__(self, project: Project, one: Prepared) -> tuple[Prepared, Accepted]:
        """Write a submission, and return it with the id that it got.

        Raises:
            WindlassError: It is refused, or the ledger does not answer.
        """
        done = await self._batches(project, one)
        if isinstance(done.became, Exception):
            raise done.became
        return done.prepared, done.became

    async def _write(self, project: Project, asked: list[Prepared]) -> list[_Written]:
        """Write submissions that came at the same time together; who is refused is so alone.

        Once some are written nothing is raised: they are accepted, whatever becomes of the others.
        """
        asked = _in_order(asked)
        written = await self._write_known(project, [one for one in asked if one.simple])
        left = [one for one in asked if one.run_id not in written]
        if left:
            written |= await self._write_others(project, left)
        return [written[one.run_id] for one in asked]

    async def _write_known(self, project: Project, asked: list[Prepared]) -> dict[UUID, _Written]:
        """Write those for which one statement is enough, as it is for nearly all; return what became of them."""
        if not asked:
            return {}
        versions = {id(one.snapshot): runs.unread(one.snapshot) for one in asked}
        new = [new_run(one.run_id, one.wanted, versions[id(one.snapshot)], one.payload) for one in asked]
        made = await self._database.statements(lambda connection: intake.insert_known(connection, project, new))
        shown = [one.run_id for one in asked if one.shown and one.run_id in made]
        rows: Mapping[UUID, Mapping[str, Any]] = {}
        if shown:
            try:
                rows = await self._database.statements(lambda connection: runs.new_rows(connection, shown))
            except Exception as error:  # they are accepted; who answers reads what it shows
                log.info("new runs were not read back", number=len(shown), error=str(error)[:200])
        return {
            one.run_id: _Written(one, Accepted(one.run_id, row=rows.get(one.run_id)))
            for one in asked
            if one.run_id in made
        }

    async def _write_others(self, project: Project, left: list[Prepared]) -> dict[UUID, _Written]:
        """Write submissions in one transaction, or, where one of them fails it, each in its own."""
        try:
            return await self._write_together(project, left)
        except LedgerUnavailableError as error:
            return {one.run_id: _Written(one, error) for one in left}
        except Exception as error:
            if len(left) == 1:
                return {left[0].run_id: _Written(left[0], error)}
            log.info("submissions are written one by one", number=len(left), error=str(error)[:200])
        written: dict[UUID, _Written] = {}
        for one in left:
            written |= await self._write_others(project, [one])
        return written

    async def _write_together(self, project: Project, left: list[Prepared]) -> dict[UUID, _Written]:
        """Write submissions in one transaction.

        One in which somebody is refused is given up and done again without them: whatever it had taken for
        them, such as a key, is as it was, and the others are decided upon as if those had never asked.
        """
        written: dict[UUID, _Written] = {}
        while left:
            refused: dict[UUID, WindlassError] = {}

            async def work(
                connection: Connection, left: list[Prepared] = left, refused: dict[UUID, WindlassError] = refused
            ) -> list[Accepted]:
                refused.clear()
                project_id = await runs.ensure_project(connection, project.uid, project.namespace)
                accepted = await self._insert(connection, project_id, project, left, refused=refused)
                shown = [a.run_id for one, a in zip(left, accepted, strict=True) if one.shown and not a.deduplicated]
                rows = await runs.new_rows(connection, shown) if shown else {}
                return [replace(one, row=rows.get(one.run_id)) for one in accepted]

            try:
                for one, became in zip(left, await self._database.transaction(work), strict=True):
                    written[one.run_id] = _Written(one, became)
                break
            except SomeRefusedError:
                written |= {one.run_id: _Written(one, refused[one.run_id]) for one in left if one.run_id in refused}
                left = [one for one in left if one.run_id not in refused]
        return written


def _in_order(asked: list[Prepared]) -> list[Prepared]:
    """Return submissions with ids in the order in which they came, as far as nothing was stored under one yet."""
    free = iter(sorted((one.run_id for one in asked if one.staged is None), key=_BY_TIME))
    return [one if one.staged is not None else replace(one, run_id=next(free)) for one in asked]
