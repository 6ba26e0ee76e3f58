"""Namespaces that go while they have runs: the runs end, because nothing of theirs can start there again.

Their Run resources vanish too, but that says nothing of runs that have none, and an operator that was down learns of no
deletion. A namespace of the same name that comes later is another project and sees nothing of its predecessor.
"""

from typing import Protocol

import structlog

from windlass_operator.domain.project import Project
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeNotFoundError
from windlass_operator.ledger import projects
from windlass_operator.ledger.database import Database
from windlass_operator.services.runs import RunService

log = structlog.get_logger()


class Namespaces(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace.

        Raises:
            KubeNotFoundError: There is no such namespace.
        """
        ...

    async def is_gone(self, project: Project) -> bool:
        """Return whether a project's namespace is absent, is being deleted, or has a successor of its name."""
        ...


class NamespaceService:
    """Ends the runs of namespaces that are gone.

    Args:
        database: The ledger.
        namespaces: Kubernetes.
        runs_service: Cancels runs.
        release_namespace: Ours. An API server that does not know it is not the one that we belong to.
    """

    def __init__(
        self, database: Database, namespaces: Namespaces, runs_service: RunService, *, release_namespace: str
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._runs = runs_service
        self._release_namespace = release_namespace

    async def end_runs(self) -> int:
        """Cancel what is unfinished in namespaces that are gone, up to 1,000 runs of each. Returns how many."""
        count = 0
        for project in await projects.unfinished(self._database):
            if await self._namespaces.is_gone(project) and await self._is_our_cluster():
                runs = await projects.unfinished_runs(self._database, project)
                for run_id in runs:
                    await self._runs.end(run_id, reason="ResourceDeleted", message="Its namespace was deleted.")
                log.info("runs of a deleted namespace cancelled", namespace=project.namespace, runs=len(runs))
                count += len(runs)
        return count

    async def _is_our_cluster(self) -> bool:
        try:
            await self._namespaces.project(self._release_namespace)
        except KubeNotFoundError as error:
            log.warning("nothing is cancelled for namespaces that seem gone", error=error.message)
            return False
        except ForbiddenByPolicyError:
            # An installation of listed namespaces may not look at its own; only a server that knows us says so.
            return True
        return True
