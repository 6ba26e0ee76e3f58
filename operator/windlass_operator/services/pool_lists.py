"""WorkerPools of a project, for those who look."""

from typing import Any

from windlass_operator.domain.project import Project
from windlass_operator.ledger import runs, worker_pools
from windlass_operator.ledger.database import Database


class PoolListService:
    """Lists pools of a project; never looks beyond it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, project: Project, *, after: str, limit: int) -> list[dict[str, Any]]:
        """Return pools by name, from the one after ``after`` on."""
        row = await runs.project_by_uid(self._database, project.uid)
        return [] if row is None else await worker_pools.page(self._database, row["id"], after=after, limit=limit)
