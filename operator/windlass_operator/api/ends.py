"""Ends of many attempts in one body: each is read by itself, so that one that cannot be read keeps no other."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from windlass import protocol
from windlass_operator.api.errors import error_body
from windlass_operator.api.messages import message_of, read_message
from windlass_operator.domain.errors import InvalidRequestError
from windlass_operator.services.attempts import AttemptService


class EndsRequest(protocol.Message):
    """An :class:`protocol.EndsRequest` whose ends are not read yet."""

    ends: list[msgspec.Raw]
    claim: protocol.NextClaim | None = None


async def end_all(attempts: AttemptService, request: Request, session: str) -> Response:
    """Answer a request that ends many attempts.

    Raises:
        InvalidRequestError: The body is none of many ends, or has too many.
    """
    body = await read_message(request, EndsRequest)
    if len(body.ends) > protocol.MOST_ENDS:
        raise InvalidRequestError(
            f"The body has {len(body.ends)} ends; the limit is {protocol.MOST_ENDS}.", field="ends"
        )
    answers, taken = await attempts.end_all(session, [_read(raw, n) for n, raw in enumerate(body.ends)], body.claim)
    answer = protocol.EndsAnswer(ends=[_told(one) for one in answers], attempts=taken.attempts, leave=taken.leave)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _read(raw: msgspec.Raw, n: int) -> protocol.End | InvalidRequestError:
    try:
        return message_of(bytes(raw), protocol.End, what=f"ends[{n}]")
    except InvalidRequestError as error:
        return error


def _told(answer: protocol.Outcome | Exception) -> protocol.EndAnswer:
    if not isinstance(answer, Exception):
        return protocol.EndAnswer(outcome=answer)
    status, body = error_body(answer)
    return protocol.EndAnswer(error=body, status=status)
