"""The routes of approvals: what runs ask people, and the answer. Whose it is, the token says and not the body."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from windlass.protocol import DEPTH
from windlass_operator.api.answers import json_answer, time_text
from windlass_operator.api.messages import read_body
from windlass_operator.api.openapi import answer, refusal, refusals
from windlass_operator.api.permits import Permits, caller_of, project_of
from windlass_operator.api.public import require_json
from windlass_operator.api.queries import NoQuery
from windlass_operator.api.schemas import View
from windlass_operator.domain.approvals import Approval as Row
from windlass_operator.domain.approvals import ApprovalState
from windlass_operator.domain.errors import InvalidRequestError
from windlass_operator.resources.approval import COMMENT_MAX
from windlass_operator.services import payloads
from windlass_operator.services.approvals import ApprovalService, Verdict

_ROOT: Final = "/api/v1/namespaces/{namespace}/approvals"
_BODY_LIMIT: Final = 64 * 1024


class Approval(View):
    """What a run asks people. Values that are absent are left out."""

    name: str
    """Of the approval, and of its resource."""
    namespace: str
    run: UUID
    """Id of the run that waits."""
    run_name: str | None = None
    """Name of its Run resource, if there is one."""
    task: str
    step: str
    """Key of the wait within the run."""
    question: str
    details: Any = None
    """What one has to know in order to decide. Not in lists."""
    state: Literal["Pending", "Approved", "Refused", "Expired", "Withdrawn"]
    """Expired: nobody decided in time. Withdrawn: the run does not ask any more."""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    """Until when it can be decided."""
    by: str | None = None
    """Who decided, as Kubernetes knows them."""
    comment: str | None = None
    ended_at: AwareDatetime | None = None
    """When it was decided, or was over otherwise."""


class ApprovalPage(View):
    """A page of approvals, newest first."""

    items: list[Approval]
    next_cursor: int | None
    """Give it back as `cursor` for the next page; null at the end."""


class DecisionRequest(BaseModel):
    """A decision. By whom it is, the token says."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    decision: Literal["Approved", "Refused"]
    """What was decided."""
    comment: Annotated[str, Field(max_length=COMMENT_MAX, pattern=r"^[^\x00]*$")] | None = None
    """Why, for the run and for whoever reads it later."""


class ApprovalsQuery(NoQuery):
    """Filter and page of a list of approvals."""

    state: list[ApprovalState] = Field(
        [], max_length=10, description="Only approvals in this state. Repeat it for any of several."
    )
    limit: int = Field(50, ge=1, le=500, description="Approvals on a page.")
    cursor: int | None = Field(None, ge=1, le=2**63 - 1, description="`nextCursor` of the page before.")


_DECISION_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": DecisionRequest.model_json_schema(),
                "examples": {
                    "approve": {"value": {"decision": "Approved", "comment": "checked the invoice"}},
                    "refuse": {"value": {"decision": "Refused"}},
                },
            }
        },
    }
}
_OVER: Final = refusal(
    409,
    "Somebody decided before, or nothing can be decided any more.",
    "ApprovalDecided",
    "Approval 'order-w3kq7c2mza' was approved by alice at 2026-11-21T07:31:00Z; nothing can be decided any more.",
)


class ApprovalRoutes:
    """The routes of ``/api/v1/namespaces/{namespace}/approvals``."""

    def __init__(self, permits: Permits, approvals: ApprovalService) -> None:
        self._permits = permits
        self._approvals = approvals

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["approvals"])
        one: dict[int | str, dict[str, Any]] = {200: answer("The approval.", Approval, "approval")}

        def add(
            method: str,
            path: str,
            handler: Callable[..., Awaitable[Response]],
            verb: str,
            responses: dict[int | str, dict[str, Any]],
            **more: Any,
        ) -> None:
            router.add_api_route(
                _ROOT + path,
                handler,
                methods=[method],
                summary=(handler.__doc__ or "").split("\n", 1)[0].rstrip("."),
                operation_id=handler.__name__,
                dependencies=[Depends(self._permits.permit(verb, "approvals"))],
                response_model=None,
                response_class=Response,
                responses=responses,
                **more,
            )

        page: dict[int | str, dict[str, Any]] = {200: answer("A page.", ApprovalPage, "approvals")}
        add("GET", "", self.list_approvals, "list", {**page, **refusals()})
        add("GET", "/{approval}", self.get_approval, "get", {**one, **refusals()})
        decide = {**one, **refusals(413, 415, 422), **_OVER}
        path = "/{approval}/decision"
        add("POST", path, self.decide_approval, "update", decide, openapi_extra=_DECISION_BODY)
        return router

    async def list_approvals(self, request: Request, query: Annotated[ApprovalsQuery, Query()]) -> Response:
        """List approvals.

        Newest first, without their details.
        """
        found, after = await self._approvals.list_page(
            project_of(request), frozenset(query.state), before=query.cursor, limit=query.limit
        )
        return json_answer({"items": [approval_json(row) for row in found], "nextCursor": after})

    async def get_approval(self, request: Request, approval: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Get an approval with its details."""
        return json_answer(approval_json(await self._approvals.get(project_of(request), approval), whole=True))

    async def decide_approval(self, request: Request, approval: str, _query: Annotated[NoQuery, Query()]) -> Response:
        """Approve or refuse.

        The run goes on. The first decision counts; to repeat one's own changes nothing.
        """
        found = await self._approvals.get(project_of(request), approval)
        data = await read_body(request, _BODY_LIMIT) or b"null"
        require_json(request)
        body = _decision(payloads.parse(data, field="body", depth=DEPTH))
        verdict = Verdict(body.decision, caller_of(request).username, body.comment, "api")
        return json_answer(approval_json(await self._approvals.decide(found, verdict), whole=True))


def approval_json(row: Row, *, whole: bool = False) -> dict[str, Any]:
    """Return an approval as the API shows it.

    Args:
        row: Of the ledger.
        whole: With its details.
    """
    shown = {
        "name": row.name,
        "namespace": row.namespace,
        "run": str(row.run_id),
        "runName": row.run_name,
        "task": row.task,
        "step": row.key,
        "question": row.question,
        "details": msgspec.Raw(row.details.encode()) if whole and row.details is not None else None,
        "state": row.state.value,
        "createdAt": time_text(row.created_at),
        "expiresAt": time_text(row.expires_at),
        "by": row.by,
        "comment": row.comment,
        "endedAt": time_text(row.over_at),
    }
    return {key: value for key, value in shown.items() if value is not None}


def _decision(value: Any) -> DecisionRequest:
    try:
        return DecisionRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:60] or "body"
    if first["type"] == "extra_forbidden":
        what = f"{where!r} is not a field of a decision."
        if where == "by":
            what = "By whom a decision is, the token says and not the body."
        raise InvalidRequestError(what, field=where, hint="The fields are decision and comment.")
    raise InvalidRequestError(f"The body is not a decision: {where}: {first['msg']}", field=where)
