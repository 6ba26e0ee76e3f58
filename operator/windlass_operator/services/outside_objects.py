"""Whether the objects of the store are what the ledger says of them."""

from datetime import timedelta
from itertools import groupby
from typing import Final
from uuid import UUID

from windlass_operator.blobs.store import BlobStore
from windlass_operator.ledger import blobs, outside
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.invariants import Broken
from windlass_operator.ledger.outside import NO_VALUE, Value
from windlass_operator.services.blobs import SETTLED, SWEEP_EVERY
from windlass_operator.services.invariants import LATE
from windlass_operator.services.outside import OBJECT_CHECKS, NotLookedAtError

_PAGE: Final = 1000
_ORPHANED: Final = SETTLED + SWEEP_EVERY + LATE
"""Age from which an object without a run should have been swept."""


class ObjectLook:
    """Large values, and the objects that they are kept in.

    Args:
        database: The ledger.
        store: Where large values are.
        orphaned: Age from which an object without a run should have been swept.
    """

    checks = OBJECT_CHECKS
    patient = False

    def __init__(self, database: Database, store: BlobStore, *, orphaned: timedelta = _ORPHANED) -> None:
        self._database = database
        self._store = store
        self._orphaned = orphaned

    async def find(self) -> list[Broken]:
        """Return where store and ledger differ.

        Raises:
            NotLookedAtError: There is no store.
            BlobStoreUnavailableError: It does not answer.
            BlobStoreConfigError: It refuses.
        """
        if self._store.in_ledger:
            why = "No object store is configured here"
            if await outside.some_are_elsewhere(self._database):
                raise NotLookedAtError(f"{why}, and some large values are in one. Does this process lack its settings?")
            raise NotLookedAtError(f"{why}; large values are rows of the ledger.")
        return await self._lost() + await self._orphans()

    async def _lost(self) -> list[Broken]:
        found, after = [], NO_VALUE
        # Rows first: an object is stored before its row is written.
        while page := await outside.values(self._database, after=after, size=_PAGE):
            of_projects = sorted(page, key=lambda value: (value.project_uid, value.run_id))
            for project, values in groupby(of_projects, key=lambda value: value.project_uid):
                found += await self._lost_of(project, list(values))
            after = page[-1]
        return found

    async def _lost_of(self, project: str, values: list[Value]) -> list[Broken]:
        listed = self._store.keys(project, values[0].run_id, values[-1].run_id)
        there = {(key.run_id, key.sha256) async for key in listed}
        return [
            Broken(
                "objects_there",
                value.run_id,
                f"Value {value.sha256} is {'a row of the ledger and ' if value.in_ledger else ''}not in the store.",
                value.namespace,
            )
            for value in values
            if (value.run_id, value.sha256) not in there
        ]

    async def _orphans(self) -> list[Broken]:
        orphans: list[tuple[str, UUID]] = []
        some: list[tuple[str, UUID]] = []
        async for run in self._store.runs():
            some.append(run)
            if len(some) == _PAGE:
                orphans += await blobs.orphans(self._database, some, self._orphaned)
                some = []
        orphans += await blobs.orphans(self._database, some, self._orphaned)
        return [
            Broken(
                "objects_owned", None, f"Objects under {project}/{run_id}/ belong to a run that is not in the ledger."
            )
            for project, run_id in orphans
        ]
