"""Routes of queues, and of why a run does not start."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, Field

from windlass_operator.api.answers import json_answer, time_text
from windlass_operator.api.openapi import answer, refusals
from windlass_operator.api.permits import Permits, project_of
from windlass_operator.api.queries import NoQuery
from windlass_operator.api.schemas import View
from windlass_operator.domain.run_state import RunState
from windlass_operator.services.explanation import ExplanationService
from windlass_operator.services.queue_lists import QueueListService
from windlass_operator.services.runs import RunService

_ROOT: Final = "/api/v1/namespaces/{namespace}"


class Queue(View):
    """A queue, with how full it is."""

    name: str
    concurrency: int | None
    """How many runs may be under way; null for any number."""
    paused: bool
    max_length: int | None
    """How many runs may wait; null for any number."""
    missing: bool
    """A Task names it, and there is no such Queue: its runs wait for one."""
    running: int
    queued: int
    delayed: int
    oldest: AwareDatetime | None
    """Since when the first of the queued runs waits."""


class QueuePage(View):
    """A page of queues, by name."""

    items: list[Queue]
    next_cursor: str | None
    """Give it back as `after`; null at the end."""


class Gate(View):
    """One thing that a run waits for."""

    reason: str
    """The word that the status shows; see the list of reasons."""
    message: str


class Explanation(View):
    """Why a run is not running."""

    id: str
    state: RunState
    reason: str | None
    message: str | None
    queue: str | None
    """The queue in which it waits."""
    ahead: int | None
    """Runs of the queue that go before it."""
    waits_for: list[Gate]
    """Everything that it waits for. Empty where it runs, or has ended."""


class QueuesQuery(NoQuery):
    """A page of queues."""

    after: str = Field("", max_length=253, pattern=r"^[^\x00]*$", description="`nextCursor` of the page before.")
    limit: int = Field(100, ge=1, le=500, description="Queues on a page.")


class QueueRoutes:
    """The routes.

    Args:
        permits: Asks who may.
        runs: Finds the run to explain.
        queues: Lists queues.
        explanations: Explains.
    """

    def __init__(
        self, permits: Permits, runs: RunService, queues: QueueListService, explanations: ExplanationService
    ) -> None:
        self._permits = permits
        self._runs = runs
        self._queues = queues
        self._explanations = explanations

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["queues"])
        shared: dict[str, Any] = {"methods": ["GET"], "response_model": None, "response_class": Response}
        router.add_api_route(
            f"{_ROOT}/queues",
            self.list_queues,
            summary="List queues",
            operation_id="list_queues",
            dependencies=[Depends(self._permits.permit("list", "queues"))],
            responses={200: answer("A page.", QueuePage, "queues"), **refusals()},
            **shared,
        )
        router.add_api_route(
            f"{_ROOT}/runs/{{run}}/explain",
            self.explain_run,
            summary="Explain why a run is not running",
            operation_id="explain_run",
            dependencies=[Depends(self._permits.permit("get", "runs"))],
            responses={200: answer("What it waits for.", Explanation, "explain"), **refusals()},
            **shared,
        )
        return router

    async def list_queues(self, request: Request, query: Annotated[QueuesQuery, Query()]) -> Response:
        """List queues.

        With their limits, and how full they are now. A Task that names no queue has one with its own name.
        """
        rows = await self._queues.page(project_of(request), after=query.after, limit=query.limit + 1)
        items = [
            {
                "name": row["name"],
                "concurrency": row["concurrency"],
                "paused": row["paused"],
                "maxLength": row["max_length"],
                "missing": row["missing"],
                "running": row["running"],
                "queued": row["queued"],
                "delayed": row["delayed"],
                "oldest": time_text(row["oldest"]),
            }
            for row in rows[: query.limit]
        ]
        return json_answer({"items": items, "nextCursor": items[-1]["name"] if len(rows) > query.limit else None})

    async def explain_run(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Explain why a run is not running.

        Everything that it waits for, in the words of its status, and how many runs of its queue go before it.
        """
        row = await self._runs.get(project_of(request), run)
        found = await self._explanations.explain(row)
        return json_answer(
            {
                "id": str(row["id"]),
                "state": row["state"],
                "reason": row["reason"],
                "message": row["message"],
                "queue": found.queue,
                "ahead": found.ahead,
                "waitsFor": [{"reason": gate.reason, "message": gate.message} for gate in found.waits_for],
            }
        )
