"""The public REST API. The namespace comes from the path, and Kubernetes decides who may use it."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from starlette.routing import Route

from windlass.durations import InvalidDurationError, parse_duration
from windlass.protocol import BODY_LIMIT, DEPTH
from windlass_operator.api.answers import json_answer as _json
from windlass_operator.api.answers import time_text as _time
from windlass_operator.api.messages import read_body, validated
from windlass_operator.api.openapi import BATCH_BODY, RESUME_BODY, TRIGGER_BODY, answer, refusals
from windlass_operator.api.permits import Permits
from windlass_operator.api.permits import project_of as _project
from windlass_operator.api.plain import plain_route
from windlass_operator.api.queries import (
    ItemsQuery,
    LogsQuery,
    NoQuery,
    ResultQuery,
    RunsQuery,
    TreeQuery,
    TriggerQuery,
)
from windlass_operator.api.schemas import (
    AttemptPage,
    BatchAnswer,
    BatchRequest,
    EventPage,
    LogPage,
    ResumeRequest,
    Run,
    RunPage,
    StepPage,
    Tree,
    TriggerRequest,
)
from windlass_operator.domain.errors import TaskNotFoundError, WindlassError
from windlass_operator.domain.ids import as_id
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.intake import when_of
from windlass_operator.ledger.outcomes import Outcome
from windlass_operator.resources.names import is_object_name
from windlass_operator.services import payloads
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.handover import step_from_row
from windlass_operator.services.projection import facts_of_run
from windlass_operator.services.results import ResultService
from windlass_operator.services.resumption import ResumeService
from windlass_operator.services.runs import RunService
from windlass_operator.services.submission import SubmissionService
from windlass_operator.services.submitted import Submission

_LONGEST_WAIT: Final = 60.0
_PLAIN_WAIT: Final = re.compile(rb"wait=\d{1,9}(ms|s|m)")
_ROOT: Final = "/api/v1/namespaces/{namespace}"
_LOCATION: Final = {"Location": {"description": "Path of the run.", "schema": {"type": "string"}}}


class UnsupportedMediaTypeError(WindlassError):
    """A body that is declared as something else than JSON."""

    code, http_status = "UnsupportedMediaType", 415

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"The body is declared as {kind[:80]!r}.",
            field="Content-Type",
            hint="Send `Content-Type: application/json`.",
        )


def require_json(request: Request) -> None:
    """Require that a body is not declared as something else; one that is declared as nothing is taken for JSON.

    Raises:
        UnsupportedMediaTypeError: It is.
    """
    kind = request.headers.get("content-type", "application/json")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaTypeError(kind)


class RunEndedError(WindlassError):
    """A result is asked of a run that ended without one."""

    http_status = 409

    def __init__(self, run: Outcome) -> None:
        self.code = f"Run{run.state}"
        super().__init__(f"Run {run.id} is {run.state}: {run.message or run.reason or 'no reason given'}")


class AttemptNotFoundError(WindlassError):
    """A number that no attempt of the run has."""

    code, http_status = "AttemptNotFound", 404

    def __init__(self, number: int) -> None:
        super().__init__(f"The run has no attempt {number}. See its attempts.", field="number")


class PublicRoutes:
    """The routes of ``/api/v1``."""

    def __init__(
        self,
        permits: Permits,
        submissions: SubmissionService,
        runs: RunService,
        blobs: BlobService,
        results: ResultService,
        resumption: ResumeService,
    ) -> None:
        self._permits = permits
        self._may_get = permits.permit("get", "runs")
        self._submissions = submissions
        self._runs = runs
        self._blobs = blobs
        self._results = results
        self._resumption = resumption

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["runs"])
        run = answer("The run.", Run, "run")

        def add(
            method: str,
            path: str,
            handler: Callable[..., Awaitable[Response]],
            permit: tuple[str, str],
            responses: dict[int | str, dict[str, Any]],
            **more: Any,
        ) -> None:
            router.add_api_route(
                _ROOT + path,
                handler,
                methods=[method],
                summary=(handler.__doc__ or "").split("\n", 1)[0].rstrip("."),
                operation_id=handler.__name__,
                dependencies=[Depends(self._permits.permit(permit[0], "runs", permit[1]))],
                response_model=None,
                response_class=Response,
                responses=responses,
                **more,
            )

        view, items = ("get", ""), "/runs/{run}"
        add(
            "POST",
            "/tasks/{task}/runs",
            self.trigger,
            ("create", ""),
            {
                201: {**run, "headers": _LOCATION},
                200: {
                    **run,
                    "description": "A run with this idempotency key that was there before; with `wait`, a result.",
                    "headers": _LOCATION,
                },
                202: {**run, "description": "With `wait`: the run, which has not ended.", "headers": _LOCATION},
                **refusals(409, 413, 415, 422),
            },
            status_code=201,
            openapi_extra=TRIGGER_BODY,
        )
        add(
            "POST",
            "/tasks/{task}/runs:batch",
            self.trigger_batch,
            ("create", ""),
            {201: answer("The runs, in the order of the items.", BatchAnswer, "batch"), **refusals(413, 415, 422)},
            status_code=201,
            openapi_extra=BATCH_BODY,
        )
        add("GET", "/runs", self.list_runs, ("list", ""), {200: answer("A page.", RunPage, "runs"), **refusals()})
        add("GET", items, self.get_run, view, {200: run, **refusals()})
        add("GET", f"{items}/payload", self.get_payload, view, {200: _any("The payload.", "payload"), **refusals()})
        add("GET", f"{items}/tree", self.get_tree, view, {200: answer("The tree.", Tree, "tree"), **refusals()})
        add("GET", f"{items}/steps", self.list_steps, view, {200: answer("A page.", StepPage, "steps"), **refusals()})
        add(
            "GET",
            f"{items}/attempts",
            self.list_attempts,
            view,
            {200: answer("All attempts.", AttemptPage, "attempts"), **refusals()},
        )
        add(
            "GET",
            f"{items}/attempts/{{number}}/pod",
            self.get_attempt_pod,
            ("get", "log"),
            {200: _any("What is known of the pod.", "pod"), **refusals()},
        )
        add(
            "GET",
            f"{items}/events",
            self.list_events,
            view,
            {200: answer("A page.", EventPage, "events"), **refusals()},
        )
        add(
            "GET",
            f"{items}/logs",
            self.list_logs,
            ("get", "log"),
            {200: answer("A page.", LogPage, "logs"), **refusals()},
        )
        add(
            "GET",
            f"{items}/result",
            self.get_result,
            view,
            {
                200: _any("The result itself.", "result"),
                202: answer("The run, which has not ended.", Run, "run"),
                **refusals(409),
            },
        )
        add("POST", f"{items}/cancel", self.cancel, ("patch", ""), {202: run, **refusals()}, status_code=202)
        add(
            "POST",
            f"{items}/resume",
            self.resume,
            ("patch", ""),
            {202: run, **refusals(409, 415, 422)},
            status_code=202,
            openapi_extra=RESUME_BODY,
        )
        return router

    def plain_routes(self) -> list[Route]:
        """Return what is served without FastAPI: the hot routes, where that would be two thirds of the work.

        FastAPI's routes of the same paths describe them, and serve the requests whose query may have to be refused.
        """
        may_create = self._permits.permit("create", "runs")

        async def trigger(request: Request) -> Response:
            await may_create(request, request.path_params["namespace"])
            return await self.trigger(request, request.path_params["task"], TriggerQuery(**request.query_params))

        async def get_result(request: Request) -> Response:
            await self._may_get(request, request.path_params["namespace"])
            query = ResultQuery(**request.query_params)
            return await self.get_result(request, request.path_params["run"], query)

        return [
            plain_route("POST", f"{_ROOT}/tasks/{{task}}/runs", trigger, queries=_PLAIN_WAIT),
            plain_route("GET", f"{_ROOT}/runs/{{run}}/result", get_result, queries=_PLAIN_WAIT),
        ]

    async def trigger(self, request: Request, task: str, query: Annotated[TriggerQuery, Query()]) -> Response:
        """Start a run of a Task.

        The answer comes after the commit: an accepted run reaches exactly one final state. A header `traceparent` makes
        the run a part of that trace. With `wait`, which also needs the permission to get runs, the answer is the one of
        the run's result, whose `Location` tells which run it is.
        """
        if query.wait is not None:
            await self._may_get(request, request.path_params["namespace"])
        project = _project(request)
        # One level more than a payload may have: the body is an object around it.
        value, size = await self._asked(request, project, task, depth=DEPTH + 1)
        body = validated(TriggerRequest, value)
        wanted = _submission(task, body, size, request.headers.get("traceparent"))
        accepted = await self._submissions.trigger(project, wanted, shown=query.wait is None)
        location = {"Location": f"/api/v1/namespaces/{project.namespace}/runs/{accepted.run_id}"}
        if query.wait is not None:
            new = not accepted.deduplicated
            return await self._result(request, accepted.run_id, query.wait, location, new=new)
        run = run_json(accepted.row or await self._runs.get(project, str(accepted.run_id)))
        if accepted.deduplicated:
            run["deduplicated"] = True
        return _json(run, 200 if accepted.deduplicated else 201, location)

    async def trigger_batch(self, request: Request, task: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Start up to 1,000 runs of a Task.

        All of them or none: the first item that is refused refuses the request, and the error's `field` names it. An
        item whose idempotency key stands for a run that has not failed gets that run; so does a second item with the
        same key.
        """
        project = _project(request)
        value, size = await self._asked(request, project, task, depth=DEPTH + 3)
        items = validated(BatchRequest, value).items
        trace = request.headers.get("traceparent")
        wanted = [_submission(task, item, size // len(items), trace, at=f"items[{n}].") for n, item in enumerate(items)]
        accepted = await self._submissions.trigger_all(project, wanted)
        made = [{"id": str(a.run_id), **({"deduplicated": True} if a.deduplicated else {})} for a in accepted]
        return _json({"items": made}, 201)

    async def _asked(self, request: Request, project: Project, task: str, *, depth: int) -> tuple[Any, int]:
        """Return the body of a request to trigger, decoded, and how many bytes it has."""
        if not is_object_name(task):
            raise TaskNotFoundError(task, project.namespace, field="task")
        data = await read_body(request, BODY_LIMIT) or b"{}"
        require_json(request)
        value = await self._submissions.large.run(
            lambda: payloads.parse(data, field="body", depth=depth), size=len(data)
        )
        return value, len(data)

    async def list_runs(self, request: Request, query: Annotated[RunsQuery, Query()]) -> Response:
        """List runs.

        Every filter that is given must hold. Items have neither payload nor result. Pages go on after the last run that
        was shown: a run that is created meanwhile moves none of the others.
        """
        rows, after = await self._runs.list_page(
            _project(request), query.wanted(), order=query.order(), cursor=query.cursor, limit=query.limit
        )
        return _json({"items": [run_json(row) for row in rows], "nextCursor": after})

    async def get_run(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Get a run with its payload."""
        return _json(run_json(await self._runs.get(_project(request), run), whole=True))

    async def get_payload(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Get the payload of a run, however large."""
        project = _project(request)
        row = await self._runs.get(project, run)
        return await self._value(project, row["id"], row["payload"], row["payload_sha256"])

    async def get_tree(self, request: Request, run: str, query: Annotated[TreeQuery, Query()]) -> Response:
        """Get a run with all that it has led to.

        Parents come before their children. One more level is read only when the one above it is complete.
        """
        row = await self._runs.get(_project(request), run)
        rows = await self._runs.tree(row["id"], limit=query.limit + 1)
        items = [
            {
                "id": str(node["id"]),
                "task": node["task"],
                "name": node["resource_name"],
                "parentId": None if node["parent_id"] is None else str(node["parent_id"]),
                "depth": node["depth"],
                "detached": node["detached"],
                "state": node["state"],
                "reason": node["reason"],
                "message": node["message"],
                "attempt": node["attempts"],
                "createdAt": _time(node["created_at"]),
                "startedAt": _time(node["started_at"]),
                "finishedAt": _time(node["finished_at"]),
            }
            for node in rows[: query.limit]
        ]
        return _json({"items": items, "truncated": len(rows) > query.limit})

    async def list_steps(self, request: Request, run: str, query: Annotated[ItemsQuery, Query()]) -> Response:
        """List the steps of a run.

        In the order in which they were first saved.
        """
        row = await self._runs.get(_project(request), run)
        rows = await self._runs.steps(row["id"], after=query.after, limit=query.limit)
        return _json(
            {
                "items": [_step_json(step) for step in rows],
                "nextCursor": rows[-1]["position"] if len(rows) == query.limit else None,
            }
        )

    async def list_attempts(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """List the attempts of a run.

        Each with how it ended and what became of its pod.
        """
        row = await self._runs.get(_project(request), run)
        return _json({"items": [attempt_json(attempt) for attempt in await self._runs.attempts(row["id"])]})

    async def get_attempt_pod(
        self,
        request: Request,
        run: str,
        number: Annotated[int, Path(ge=1, le=2**31 - 1)],
        _query: Annotated[NoQuery, Query()],
    ) -> Response:
        """Get the last state of an attempt's pod.

        With the last lines of its log, and therefore for those who may read logs. Empty as long as the pod lives.
        """
        project = _project(request)
        row = await self._runs.get(project, run)
        for attempt in await self._runs.attempts(row["id"]):
            if attempt["number"] == number:
                return Response(attempt["last_state"] or "{}", media_type="application/json")
        raise AttemptNotFoundError(number)

    async def list_events(self, request: Request, run: str, query: Annotated[ItemsQuery, Query()]) -> Response:
        """List what happened to a run."""
        row = await self._runs.get(_project(request), run)
        rows = await self._runs.events(row["id"], after=query.after, limit=query.limit)
        items = [{**event, "at": _time(event["at"])} for event in rows]
        return _json({"items": items, "nextCursor": rows[-1]["n"] if len(rows) == query.limit else None})

    async def list_logs(self, request: Request, run: str, query: Annotated[LogsQuery, Query()]) -> Response:
        """Read the log of a run.

        Lines of all attempts. With `wait`, the request is held until there are new ones.
        """
        project = _project(request)
        until = time.monotonic() + _seconds(query.wait)
        while True:
            row = await self._runs.get(project, run)
            rows = await self._runs.logs(row["id"], after=query.position(), limit=query.limit)
            finished = RunState(row["state"]).final
            if rows or finished or time.monotonic() >= until or await request.is_disconnected():
                break
            await asyncio.sleep(min(0.25, max(0.0, until - time.monotonic())))
        items = [{**line, "at": _time(line["at"])} for line in rows]
        last = f"{rows[-1]['attempt']}.{rows[-1]['seq']}" if rows else query.after
        return _json({"items": items, "nextCursor": last, "finished": finished and len(rows) < query.limit})

    async def get_result(self, request: Request, run: str, query: Annotated[ResultQuery, Query()]) -> Response:
        """Get the result of a run.

        The result itself (200), the run that has not ended (202), or why there is none (409).
        """
        run_id = as_id(run) or (await self._runs.get(_project(request), run))["id"]
        return await self._result(request, run_id, query.wait, {})

    async def _result(
        self, request: Request, run_id: UUID, wait: str, headers: dict[str, str], *, new: bool = False
    ) -> Response:
        project = _project(request)
        outcome = await self._results.wait(project, run_id, _seconds(wait), request.is_disconnected, new=new)
        if outcome is None:
            run = run_json(await self._runs.get(project, str(run_id)))
            return _json(run, 202, {**headers, "Retry-After": "1"})
        if outcome.state is not RunState.SUCCEEDED:
            raise RunEndedError(outcome)
        answer = await self._value(project, run_id, outcome.result, outcome.result_sha256)
        answer.headers.update(headers)
        return answer

    async def cancel(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Cancel a run.

        Its code gets ten seconds to clean up. A run that is final stays as it is.
        """
        project = _project(request)
        row = await self._runs.get(project, run)
        await self._runs.cancel(row["id"], reason="Cancelled", message="Cancelled through the API.")
        return _json(run_json(await self._runs.get(project, str(row["id"]))), 202)

    async def resume(self, request: Request, run: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Resume a suspended run.

        It goes on after its finished steps, with the newest version of its Task or the one that the body names.
        """
        project = _project(request)
        row = await self._runs.get(project, run)
        data = await read_body(request, BODY_LIMIT)
        if data:
            require_json(request)
        body = validated(ResumeRequest, payloads.parse(data or b"{}", field="body"), what="resume request")
        await self._resumption.resume(project, row["id"], row["task"], body.version)
        return _json(run_json(await self._runs.get(project, str(row["id"]))), 202)

    async def _value(self, project: Project, run_id: UUID, text: str | None, sha256: str | None) -> Response:
        """Return a JSON value of a run as it was stored: neither decoded nor encoded again."""
        data: bytes | str = text or "null"
        if sha256:
            data = await self._blobs.get(project.uid, run_id, sha256)
        return Response(data, media_type="application/json")


def run_json(row: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Return a run as the API shows it: the status of its resource, with what the resource's metadata would say.

    Args:
        row: Of the ledger.
        whole: With payload and result.
    """
    status = {
        key: value
        for key, value in facts_of_run(row if row["result"] is None else {**row, "result": None}).items()
        if value is not None
    }
    head = {
        "id": str(row["id"]),
        "namespace": row["namespace"],
        "task": row["task"],
        "name": row["resource_name"],
        "tags": list(row["tags"]),
        "createdAt": _time(row["created_at"]),
    }
    if row["idempotency_key"] is not None:
        head["idempotencyKey"] = row["idempotency_key"]
    if row["parent_id"] is not None:
        head |= {"parentId": str(row["parent_id"]), "rootId": str(row["root_id"])}
    if row["payload_sha256"]:
        head["payloadRef"] = {"sha256": row["payload_sha256"], "size": row["payload_size"]}
    for name in ("payload", "result") if whole else ():
        if row[name] is not None:
            # As it was stored: a number of 300 digits is JSON, and not every encoder writes it.
            head[name] = msgspec.Raw(row[name].encode())
    del status["runId"]
    return {**head, **status}


def attempt_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attempt as the API shows it: of its pod's last state all but the lines of the log."""
    last_state = json.loads(row["last_state"]) if row["last_state"] else {}
    pod = {
        "name": row["pod_name"],
        "node": row["node"],
        "reason": row["pod_reason"],
        "message": row["pod_message"],
        "lastState": {name: value for name, value in last_state.items() if name != "lines"} or None,
    }
    return {
        "number": row["number"],
        "outcome": row["outcome"],
        "startedAt": _time(row["started_at"]),
        "endedAt": _time(row["closed_at"]),
        "error": msgspec.to_builtins(row["failure"]),
        "memoryBytes": row["memory_bytes"],
        "pod": pod if row["pod_name"] else None,
    }


def _any(description: str, example: str) -> dict[str, Any]:
    return answer(description, None, example)


def _submission(task: str, body: TriggerRequest, size: int, traceparent: str | None, *, at: str = "") -> Submission:
    return Submission(
        task=task,
        payload=body.payload,
        size=size,
        version=body.version,
        tags=tuple(body.tags),
        idempotency_key=body.idempotency_key,
        when=when_of(body.delay, body.start_at, body.queue_ttl),
        traceparent=traceparent,
        at=at,
    )


def _seconds(text: str) -> float:
    """Return how long a request is held. More than a minute is a minute: whoever waits asks again anyway."""
    try:
        return min(parse_duration(text).total_seconds(), _LONGEST_WAIT)
    except InvalidDurationError:
        return _LONGEST_WAIT  # the syntax was checked: it is a duration of more than ten years


def _step_json(row: dict[str, Any]) -> dict[str, Any]:
    step = step_from_row(row)
    if step.error is not None:
        step.error.restore = None  # how runners make the exception again
    return {
        **msgspec.to_builtins(step, builtin_types=(msgspec.Raw,)),
        "kind": step.kind,
        "tries": step.tries,
        **({"protected": True} if row["protected"] else {}),
        "startedAt": _time(row["started_at"]),
        "finishedAt": _time(row["finished_at"]),
        "attempt": row["attempt"],
    }
