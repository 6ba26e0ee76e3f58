"""Routes of worker pools."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from windlass_operator.api.answers import json_answer
from windlass_operator.api.openapi import answer, refusals
from windlass_operator.api.permits import Permits, project_of
from windlass_operator.api.queries import NoQuery
from windlass_operator.api.schemas import View
from windlass_operator.services.pool_lists import PoolListService


class Pool(View):
    """A worker pool, with what its pods do."""

    name: str
    missing: bool
    """A Task names it, and there is no such WorkerPool: its runs wait for one. All limits are null then."""
    min_replicas: int | None
    max_replicas: int | None
    wanted: int | None
    """How many pods somebody has set; null: Windlass decides."""
    standby: int | None
    """Slots to keep free."""
    slots: int | None
    """Runs that one pod has at once."""
    replicas: int
    """Pods that have not ended."""
    ready: int
    """Pods that take runs."""
    busy: int
    """Pods that have a run."""
    idle: int
    """Pods that take runs and have none."""
    running: int
    """Runs in its pods."""
    queued: int
    """Runs that wait."""


class PoolPage(View):
    """A page of worker pools, by name."""

    items: list[Pool]
    next_cursor: str | None
    """Give it back as `after`; null at the end."""


class PoolsQuery(NoQuery):
    """A page of worker pools."""

    after: str = Field("", max_length=253, pattern=r"^[^\x00]*$", description="`nextCursor` of the page before.")
    limit: int = Field(100, ge=1, le=500, description="Pools on a page.")


class PoolRoutes:
    """The routes.

    Args:
        permits: Asks who may.
        pools: Lists pools.
    """

    def __init__(self, permits: Permits, pools: PoolListService) -> None:
        self._permits = permits
        self._pools = pools

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["pools"])
        router.add_api_route(
            "/api/v1/namespaces/{namespace}/pools",
            self.list_pools,
            methods=["GET"],
            summary="List worker pools",
            operation_id="list_pools",
            dependencies=[Depends(self._permits.permit("list", "workerpools"))],
            response_model=None,
            response_class=Response,
            responses={200: answer("A page.", PoolPage, "pools"), **refusals()},
        )
        return router

    async def list_pools(self, request: Request, query: Annotated[PoolsQuery, Query()]) -> Response:
        """List worker pools.

        With their limits, and what their pods do now.
        """
        rows = await self._pools.page(project_of(request), after=query.after, limit=query.limit + 1)
        items = [
            {
                "name": row["name"],
                "missing": row["missing"],
                "minReplicas": row["min_replicas"],
                "maxReplicas": row["max_replicas"],
                "wanted": row["wanted"],
                "standby": row["standby"],
                "slots": row["slots"],
                "replicas": row["replicas"],
                "ready": row["ready"],
                "busy": row["busy"],
                "idle": row["idle"],
                "running": row["running"],
                "queued": row["queued"],
            }
            for row in rows[: query.limit]
        ]
        return json_answer({"items": items, "nextCursor": items[-1]["name"] if len(rows) > query.limit else None})
