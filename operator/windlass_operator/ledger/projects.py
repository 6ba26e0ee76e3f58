"""Projects, and what they have under way."""

from typing import Final
from uuid import UUID

from windlass_operator.domain.project import Project
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("projects")


async def unfinished(database: Database) -> list[Project]:
    """Return the projects that have runs which are neither final nor being cancelled."""
    rows = await database.fetch(_SQL["unfinished_projects"])
    return [Project(row["uid"], row["namespace"]) for row in rows]


async def unfinished_runs(database: Database, project: Project) -> list[UUID]:
    """Return up to 1,000 of those runs, oldest first."""
    return [row["id"] for row in await database.fetch(_SQL["unfinished_runs"], {"uid": project.uid})]
