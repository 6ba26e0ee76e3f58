"""The public REST API. The namespace comes from the path, and Kubernetes decides who may use it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from windlass.durations import InvalidDurationError, parse_duration
from windlass.protocol import BODY_LIMIT
from windlass_operator.api.auth import Authorizer
from windlass_operator.api.runtime import bearer, read_body
from windlass_operator.domain.errors import InvalidRequestError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunState
from windlass_operator.services import payloads
from windlass_operator.services.attempts import step_from_row
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.projection import status_of
from windlass_operator.services.runs import Changes, RunService
from windlass_operator.services.submission import Submission, SubmissionService

_LONGEST_WAIT = 60.0
_LOOK_AGAIN = 1.0
_ROOT = "/api/v1/namespaces/{namespace}"


class RunEndedError(WindlassError):
    """A result is asked of a run that ended without one."""

    http_status = 409

    def __init__(self, run: Mapping[str, Any]) -> None:
        self.code = f"Run{run['state']}"
        super().__init__(f"Run {run['id']} is {run['state']}: {run['message'] or run['reason'] or 'no reason given'}")


class TriggerRequest(BaseModel):
    """Body of a trigger."""

    payload: Any = Field(
        None, description="Any JSON; checked against the Task's payloadSchema.", examples=[{"orderId": 7}]
    )
    tags: list[Annotated[str, Field(max_length=128)]] = Field(
        default_factory=list, max_length=10, description="Up to ten labels of your own.", examples=[["eu"]]
    )
    version: int | None = Field(None, ge=1, description="A version of the Task; the current one by default.")


class Namespaces(Protocol):
    """Finds the project of a namespace."""

    async def project(self, namespace: str) -> Project:
        """Return the project, by the namespace's UID as it is now."""
        ...


class PublicRoutes:
    """The routes of ``/api/v1``."""

    def __init__(
        self,
        authorizer: Authorizer,
        namespaces: Namespaces,
        submissions: SubmissionService,
        runs: RunService,
        blobs: BlobService,
        changes: Changes,
    ) -> None:
        self._authorizer = authorizer
        self._namespaces = namespaces
        self._submissions = submissions
        self._runs = runs
        self._blobs = blobs
        self._changes = changes

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["runs"])
        table: list[tuple[str, str, Callable[..., Awaitable[Any]], str]] = [
            ("POST", "/tasks/{task}/runs", self.trigger, "Start a run of a Task"),
            ("GET", "/runs", self.list_runs, "List runs, newest first"),
            ("GET", "/runs/{run}", self.get_run, "Get a run by id or resource name"),
            ("GET", "/runs/{run}/steps", self.list_steps, "List the steps of a run"),
            ("GET", "/runs/{run}/events", self.list_events, "List what happened to a run"),
            ("GET", "/runs/{run}/logs", self.list_logs, "Read the log of a run"),
            ("GET", "/runs/{run}/result", self.get_result, "Get the result of a run"),
            ("POST", "/runs/{run}/cancel", self.cancel, "Cancel a run"),
        ]
        for method, path, handler, summary in table:
            extra: dict[str, Any] = {"openapi_extra": _TRIGGER_BODY} if path == "/tasks/{task}/runs" else {}
            router.add_api_route(_ROOT + path, handler, methods=[method], summary=summary, response_model=None, **extra)
        return router

    async def _enter(
        self, request: Request, namespace: str, verb: str, *, subresource: str = "", name: str = ""
    ) -> Project:
        who = await self._authorizer.identify(bearer(request))
        await self._authorizer.require(who, verb, "runs", namespace, subresource=subresource, name=name)
        return await self._namespaces.project(namespace)

    async def trigger(self, request: Request, namespace: str, task: str) -> Response:
        """Accept a run. The answer comes after the commit: an accepted run reaches exactly one final state."""
        project = await self._enter(request, namespace, "create")
        value = payloads.parse(await read_body(request, BODY_LIMIT) or b"{}", field="body")
        try:
            body = TriggerRequest.model_validate(value)
        except ValueError as error:
            raise InvalidRequestError(f"The body is not a trigger request: {_first_problem(error)}") from None
        traceparent = request.headers.get("traceparent")
        wanted = Submission(
            task=task,
            payload=body.payload,
            version=body.version,
            tags=tuple(body.tags),
            traceparent=traceparent[:64] if traceparent else None,
        )
        run_id = await self._submissions.trigger(project, wanted)
        row = await self._runs.get(project, str(run_id))
        return _json(run_json(row), 201, {"Location": f"/api/v1/namespaces/{namespace}/runs/{run_id}"})

    async def list_runs(
        self,
        request: Request,
        namespace: str,
        state: str | None = None,
        task: str | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Response:
        """Return a page of runs."""
        project = await self._enter(request, namespace, "list")
        rows, after = await self._runs.list_page(project, state=state, task=task, cursor=cursor, limit=limit)
        return _json({"items": [run_json(row) for row in rows], "nextCursor": after})

    async def get_run(self, request: Request, namespace: str, run: str) -> Response:
        """Return one run."""
        project = await self._enter(request, namespace, "get")
        row = await self._runs.get(project, run)
        return _json(run_json(row, payload=True))

    async def list_steps(
        self,
        request: Request,
        namespace: str,
        run: str,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    ) -> Response:
        """Return steps in the order in which they started to be known."""
        project = await self._enter(request, namespace, "get")
        row = await self._runs.get(project, run)
        rows = await self._runs.steps(row["id"], after=after, limit=limit)
        items = [
            {
                **msgspec.to_builtins(step_from_row(step), builtin_types=(msgspec.Raw,)),
                "startedAt": _time(step["started_at"]),
                "finishedAt": _time(step["finished_at"]),
                "attempt": step["attempt"],
            }
            for step in rows
        ]
        return _json({"items": items, "nextCursor": rows[-1]["position"] if len(rows) == limit else None})

    async def list_events(
        self,
        request: Request,
        namespace: str,
        run: str,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 500,
    ) -> Response:
        """Return events in order."""
        project = await self._enter(request, namespace, "get")
        row = await self._runs.get(project, run)
        rows = await self._runs.events(row["id"], after=after, limit=limit)
        items = [{**event, "at": _time(event["at"])} for event in rows]
        return _json({"items": items, "nextCursor": rows[-1]["n"] if len(rows) == limit else None})

    async def list_logs(
        self,
        request: Request,
        namespace: str,
        run: str,
        after: str = "0.0",
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        wait: str = "0s",
    ) -> Response:
        """Return log lines of all attempts; with ``wait``, hold the request until there are new ones."""
        project = await self._enter(request, namespace, "get", subresource="log")
        position = _log_cursor(after)
        until = time.monotonic() + _seconds(wait)
        while True:
            row = await self._runs.get(project, run)
            rows = await self._runs.logs(row["id"], after=position, limit=limit)
            finished = RunState(row["state"]).final
            if rows or finished or time.monotonic() >= until:
                break
            await asyncio.sleep(min(0.25, max(0.0, until - time.monotonic())))
        items = [{**line, "at": _time(line["at"])} for line in rows]
        last = f"{rows[-1]['attempt']}.{rows[-1]['seq']}" if rows else after
        return _json({"items": items, "nextCursor": last, "finished": finished and len(rows) < limit})

    async def get_result(self, request: Request, namespace: str, run: str, wait: str = "0s") -> Response:
        """Return the result itself (200), the unfinished run (202), or why there is none (409)."""
        project = await self._enter(request, namespace, "get")
        until = time.monotonic() + _seconds(wait)
        while True:
            row = await self._runs.get(project, run)
            left = until - time.monotonic()
            if RunState(row["state"]).final or left <= 0:
                break
            await self._changes.wait(row["id"], min(left, _LOOK_AGAIN))
        if not RunState(row["state"]).final:
            return _json(run_json(row), 202, {"Retry-After": "1"})
        if row["state"] != RunState.SUCCEEDED.value:
            raise RunEndedError(row)
        if row["result_sha256"]:
            data = await self._blobs.get(project.uid, row["id"], row["result_sha256"])
            return Response(data, media_type="application/json")
        return Response(row["result"] or "null", media_type="application/json")

    async def cancel(self, request: Request, namespace: str, run: str) -> Response:
        """Ask for the end of a run. One that is final stays as it is."""
        project = await self._enter(request, namespace, "patch")
        row = await self._runs.get(project, run)
        await self._runs.cancel(row["id"], reason="Cancelled", message="Cancelled through the API.")
        return _json(run_json(await self._runs.get(project, str(row["id"]))), 202)


def run_json(row: Mapping[str, Any], *, payload: bool = False) -> dict[str, Any]:
    """Return a run as the API shows it: the status of its resource, with what the resource's metadata would say."""
    status = {key: value for key, value in status_of(row).items() if value is not None and key not in _RESOURCE_ONLY}
    head = {
        "id": str(row["id"]),
        "namespace": row["namespace"],
        "task": row["task"],
        "name": row["resource_name"],
        "tags": list(row["tags"]),
        "createdAt": _time(row["created_at"]),
    }
    if payload and row["payload"] is not None:
        head["payload"] = json.loads(row["payload"])
    return {**head, **status}


_RESOURCE_ONLY = frozenset({"runId", "observedGeneration", "conditions"})
_TRIGGER_BODY = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": TriggerRequest.model_json_schema()}}}
}


def _first_problem(error: ValueError) -> str:
    problems: list[dict[str, Any]] = getattr(error, "errors", list)()
    if not problems:
        return str(error)[:200]
    return f"{'.'.join(str(p) for p in problems[0]['loc'])}: {problems[0]['msg']}"


def _seconds(text: str) -> float:
    try:
        return min(parse_duration(text).total_seconds(), _LONGEST_WAIT)
    except InvalidDurationError as error:
        raise InvalidRequestError(str(error), field="wait") from None


def _log_cursor(text: str) -> tuple[int, int]:
    attempt, _, seq = text.partition(".")
    if not (attempt.isdecimal() and seq.isdecimal() and len(text) < 30):
        raise InvalidRequestError("`after` is not a cursor of this route.", field="after")
    return int(attempt), int(seq)


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)
