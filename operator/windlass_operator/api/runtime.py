"""The runtime protocol's routes: plain Starlette and msgspec, because a step must not pay for a framework.

The namespace is never taken from a body: it is that of the attempt's token or of the pod's credential.
"""

import asyncio
from datetime import timedelta
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from windlass import protocol
from windlass_operator import logs
from windlass_operator.api.ends import end_all
from windlass_operator.api.messages import read_body, read_message, validated
from windlass_operator.api.plain import Handler, Served
from windlass_operator.api.schemas import TriggerRequest
from windlass_operator.domain.errors import InvalidRequestError, UnauthorizedError
from windlass_operator.ledger.intake import when_of
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.children import ChildService
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.events import EventService
from windlass_operator.services.progress import ProgressService
from windlass_operator.services.protection import ProtectionService
from windlass_operator.services.steps import StepService
from windlass_operator.services.submitted import Submission
from windlass_operator.services.tokens import TokenService
from windlass_operator.services.waits import WaitService

_LONGEST_WAIT = timedelta(seconds=30)
_MOST_SLOTS = 100
_LONGEST_TOKEN = 16 * 1024
"""Characters. Kubernetes' tokens have about a thousand; what is longer is not passed on to it."""


class Vouch(Protocol):
    """Asks Kubernetes whose token this is."""

    async def pod_of(self, token: str) -> tuple[str, str]:
        """Return the name and UID of the pod that a projected token is bound to.

        Raises:
            UnauthorizedError: Nobody vouches for it.
        """
        ...


class RuntimeRoutes:
    """The routes of ``/runtime/v1``."""

    def __init__(
        self,
        attempts: AttemptService,
        steps: StepService,
        waits: WaitService,
        progress: ProgressService,
        children: ChildService,
        blobs: BlobService,
        desk: ClaimDesk,
        vouch: Vouch,
        *,
        events: EventService,
        tokens: TokenService,
        protection: ProtectionService,
    ) -> None:
        self._attempts = attempts
        self._steps = steps
        self._waits = waits
        self._progress = progress
        self._children = children
        self._blobs = blobs
        self._desk = desk
        self._vouch = vouch
        self._events = events
        self._tokens = tokens
        self._protection = protection

    def routes(self) -> list[Route]:
        """Return the routes, each with the translation of errors around it."""
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/claim", self.claim),
            ("POST", "/withdraw", self.withdraw),
            ("POST", "/heartbeat", self.heartbeat),
            ("POST", "/steps", self.save_steps),
            ("GET", "/steps", self.load_steps),
            ("GET", "/protection", self.protection),
            ("POST", "/waits", self.waits),
            ("POST", "/suspend", self.suspend),
            ("GET", "/compensations", self.load_compensations),
            ("POST", "/checkpoint", self.checkpoint),
            ("POST", "/extend", self.extend),
            ("POST", "/events", self.send_event),
            ("POST", "/tokens", self.create_token),
            ("POST", "/children", self.children),
            ("POST", "/complete", self.complete),
            ("POST", "/fail", self.fail),
            ("POST", "/release", self.release),
            ("POST", "/ends", self.ends),
            ("POST", "/logs", self.logs),
            ("PUT", "/blobs/{sha256}", self.put_blob),
            ("GET", "/blobs/{sha256}", self.get_blob),
        ]
        routes = []
        for method, path, handler in table:
            whole = protocol.PREFIX + path
            served = Served(handler, method, whole, note=_note)
            routes.append(Route(whole, served, methods=[method], name=handler.__name__))
        return routes

    async def claim(self, request: Request) -> Response:
        """Long poll: answered when there is work, or empty after the wait."""
        body, pod = await self._claim_of(request)
        wait = min(timedelta(milliseconds=body.wait_ms), _LONGEST_WAIT)
        slots = max(1, min(body.slots, _MOST_SLOTS))
        gone = asyncio.create_task(_disconnected(request))
        try:
            return _json(await self._desk.ask(pod, body.claim_id[:100], slots, wait=wait, gone=gone))
        finally:
            gone.cancel()

    async def withdraw(self, request: Request) -> Response:
        """Hand back what a claim took."""
        body, pod = await self._claim_of(request)
        await self._attempts.withdraw(pod, body.claim_id[:100])
        return _json({})

    async def _claim_of(self, request: Request) -> tuple[protocol.ClaimRequest, PodIdentity]:
        """Return a claim and who makes it."""
        credential = bearer(request)  # first: no body is read for nobody
        body = await read_message(request, protocol.ClaimRequest)
        if body.credential == "session":
            return body, PodIdentity(body.pod_uid, body.pod_name, session=credential)
        if body.credential == "secret":
            return body, PodIdentity(body.pod_uid, body.pod_name, secret=credential)
        name, uid = await self._vouch.pod_of(credential)
        if (name, uid) != (body.pod_name, body.pod_uid):
            raise UnauthorizedError("The token is bound to another pod.")
        return body, PodIdentity(body.pod_uid, body.pod_name, vouched=True)

    async def heartbeat(self, request: Request) -> Response:
        """Keep leases."""
        return _json(await self._attempts.heartbeat(await read_message(request, protocol.HeartbeatRequest)))

    async def save_steps(self, request: Request) -> Response:
        """Save checkpoints."""
        await self._steps.save(bearer(request), await read_message(request, protocol.SaveStepsRequest))
        return Response(status_code=204)  # no body, so one packet: head and body leave in two writes

    async def load_steps(self, request: Request) -> Response:
        """Return finished steps after a cursor."""
        writer = await self._attempts.authenticate(bearer(request))
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            raise InvalidRequestError("`after` is not a cursor of this route.", field="after")
        return _json(await self._attempts.steps_after(writer, int(after)))

    async def protection(self, request: Request) -> Response:
        """Say whether the attempt's pod is protected."""
        writer = await self._attempts.authenticate(bearer(request))
        return _json(await self._protection.of(writer.attempt_id))

    async def waits(self, request: Request) -> Response:
        """Begin waits, and tell which are over."""
        return _json(await self._waits.register(bearer(request), await read_message(request, protocol.WaitsRequest)))

    async def suspend(self, request: Request) -> Response:
        """End an attempt whose code only waits."""
        return _json(await self._waits.suspend(bearer(request), await read_message(request, protocol.SuspendRequest)))

    async def load_compensations(self, request: Request) -> Response:
        """Return what is left to undo."""
        return _json(await self._attempts.compensations(await self._attempts.authenticate(bearer(request))))

    async def checkpoint(self, request: Request) -> Response:
        """Save the state of a long loop."""
        await self._progress.checkpoint(bearer(request), await read_message(request, protocol.CheckpointRequest))
        return Response(status_code=204)

    async def extend(self, request: Request) -> Response:
        """Add running time."""
        await self._progress.extend_timeout(bearer(request), await read_message(request, protocol.ExtendRequest))
        return Response(status_code=204)

    async def send_event(self, request: Request) -> Response:
        """Send an event."""
        return _json(
            await self._events.send_from_run(bearer(request), await read_message(request, protocol.SendEventRequest))
        )

    async def create_token(self, request: Request) -> Response:
        """Make a token."""
        return _json(
            await self._tokens.create(bearer(request), await read_message(request, protocol.CreateTokenRequest))
        )

    async def children(self, request: Request) -> Response:
        """Start runs for the attempt's run."""
        token = bearer(request)  # first: no body is read for nobody
        body = await read_message(request, protocol.ChildrenRequest)
        wanted = [(child, _submission(child, f"children[{n}].")) for n, child in enumerate(body.children)]
        return _json(await self._children.start(token, wanted))

    async def complete(self, request: Request) -> Response:
        """End a run with its result."""
        return _json(
            await self._attempts.complete(bearer(request), await read_message(request, protocol.CompleteRequest))
        )

    async def fail(self, request: Request) -> Response:
        """End a failed attempt."""
        return _json(await self._attempts.fail(bearer(request), await read_message(request, protocol.FailRequest)))

    async def release(self, request: Request) -> Response:
        """Hand a run back."""
        return _json(
            await self._attempts.release(bearer(request), await read_message(request, protocol.ReleaseRequest))
        )

    async def ends(self, request: Request) -> Response:
        """Complete and fail many attempts of a pod."""
        return await end_all(self._attempts, request, bearer(request))

    async def logs(self, request: Request) -> Response:
        """Save log lines."""
        await self._steps.log(bearer(request), await read_message(request, protocol.LogsRequest))
        return Response(status_code=204)

    async def put_blob(self, request: Request) -> Response:
        """Store a large value of the attempt's run."""
        writer = await self._attempts.authenticate(bearer(request))
        data = await read_body(request, self._blobs.limit)
        stored = await self._blobs.put(writer, request.path_params["sha256"], data)
        return _json(protocol.BlobStored(sha256=stored.sha256, size=stored.size))

    async def get_blob(self, request: Request) -> Response:
        """Return a large value of the attempt's run."""
        writer = await self._attempts.authenticate(bearer(request))
        data = await self._blobs.get_for(writer, request.path_params["sha256"])
        return Response(data, media_type="application/json")


def _note(scope: Scope) -> None:
    """Let lines of the log say whose request it was."""
    logs.request_headers.set(scope["headers"])


async def _disconnected(request: Request) -> None:
    """Return when nobody waits for the answer any more. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def bearer(request: Request) -> str:
    """Return the token of a request.

    Raises:
        UnauthorizedError: It carries none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError("Send `Authorization: Bearer …`.")
    if len(token) > _LONGEST_TOKEN:
        raise UnauthorizedError(f"The token has {len(token)} characters; none of ours or of Kubernetes has so many.")
    return token


def _submission(child: protocol.Child, at: str) -> Submission:
    """Return what a run asks for, held to the same rules as a request from outside. The payload is read later."""
    asked = {
        "tags": child.tags,
        "version": child.version,
        "idempotencyKey": child.idempotency_key,
        "delay": child.delay,
        "startAt": child.start_at,
        "queueTTL": child.queue_ttl,
    }
    options = validated(TriggerRequest, asked, at=at)
    return Submission(
        task=child.task,
        version=options.version,
        tags=tuple(options.tags),
        idempotency_key=options.idempotency_key,
        when=when_of(options.delay, options.start_at, options.queue_ttl),
        at=at,
    )


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
