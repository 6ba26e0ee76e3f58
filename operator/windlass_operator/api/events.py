"""The route of events: something has happened, and the runs of the namespace that wait for it go on."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from windlass.protocol import BODY_LIMIT, DEPTH, EVENT_NAME, EVENT_NAME_MAX
from windlass_operator.api.answers import json_answer
from windlass_operator.api.messages import read_body
from windlass_operator.api.openapi import answer, refusal, refusals
from windlass_operator.api.permits import Permits, project_of
from windlass_operator.api.public import require_json
from windlass_operator.api.queries import NoQuery
from windlass_operator.api.schemas import View
from windlass_operator.domain.errors import InvalidRequestError
from windlass_operator.services import payloads
from windlass_operator.services.events import EventService, check_name

_PATH: Final = "/api/v1/namespaces/{namespace}/events"
Name = Annotated[str, Field(min_length=1, max_length=EVENT_NAME_MAX, pattern=EVENT_NAME)]


class SendEventRequest(BaseModel):
    """An event to be sent."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    name: Name
    """What runs wait for, such as `payment.received`. No control characters."""
    payload: Any = None
    """Any JSON of at most 64 KiB. A wait may ask for what it has to contain."""
    id: Name | None = None
    """A word for this event: a repeat with the same one is answered as the first (200) and reaches nobody again, for as
    long as events are kept, whatever its payload is."""


class EventAccepted(View):
    """The event is durable."""

    id: str
    """Its own, or the one that it was given."""
    runs: int
    """How many runs it has reached so far. Those that wait for it later are not among them."""
    deduplicated: bool | None = None
    """It was sent before."""


_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": SendEventRequest.model_json_schema(),
                "examples": {
                    "event": {"value": {"name": "payment.received", "payload": {"orderId": 7}, "id": "payment-81"}},
                    "signal": {"summary": "A name alone.", "value": {"name": "stock.counted"}},
                },
            }
        },
    }
}


class EventRoutes:
    """The route of events.

    Args:
        permits: Asks who may send.
        events: Sends.
    """

    def __init__(self, permits: Permits, events: EventService) -> None:
        self._permits = permits
        self._events = events

    def router(self) -> APIRouter:
        """Return the routes for FastAPI."""
        router = APIRouter(tags=["events"])
        sent = answer("The event.", EventAccepted, "event")
        router.add_api_route(
            _PATH,
            self.send_event,
            methods=["POST"],
            summary="Send an event",
            operation_id="send_event",
            dependencies=[Depends(self._permits.permit("create", "events"))],
            response_model=None,
            response_class=Response,
            status_code=201,
            responses={
                201: sent,
                200: {**sent, "description": "An event with this id that was sent before."},
                **refusals(413, 415, 422),
                **refusal(
                    409, "The id is another event's.", "EventIdInUse", "The id 'a' stands for an event 'stock.counted'."
                ),
            },
            openapi_extra=_BODY,
        )
        return router

    async def send_event(self, request: Request, _query: Annotated[NoQuery, Query()]) -> Response:
        """Send an event.

        It reaches every run of the namespace that was created before and waits for it, now or later. The answer comes
        after the commit. The permission is `create` on `events.windlass.dev`, which exists for this alone.
        """
        data = await read_body(request, BODY_LIMIT)
        require_json(request)
        body = _read(payloads.parse(data, field="body", depth=DEPTH + 1))
        name = check_name(body.name, field="name")
        event_id = check_name(body.id, field="id") if body.id is not None else None
        sent = await self._events.send(project_of(request), name, body.payload, event_id)
        found: dict[str, Any] = {"id": sent.id, "runs": sent.runs}
        return json_answer(
            found | ({"deduplicated": True} if sent.deduplicated else {}), 200 if sent.deduplicated else 201
        )


def _read(value: Any) -> SendEventRequest:
    try:
        return SendEventRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:60] or "body"
    known = ", ".join(SendEventRequest.model_fields)
    raise InvalidRequestError(f"{where}: {first['msg']}", field=where, hint=f"An event has the fields {known}.")
