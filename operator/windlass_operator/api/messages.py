"""Messages of runners: capped before they are parsed, and held to what the ledger can keep.

The types' own bounds stand in ``windlass.protocol``. Here is what they cannot say: text that PostgreSQL refuses.
"""

import re
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from windlass import protocol
from windlass_operator.api.schemas import BatchRequest, TriggerRequest
from windlass_operator.domain.errors import InvalidRequestError, PayloadTooLargeError, WindlassError

M = TypeVar("M", bound=protocol.Message)
B = TypeVar("B", bound=BaseModel)
_FREE_TEXT: Final = frozenset({"text", "message", "traceback"})
"""Fields in which people read: what cannot be kept is spelled out. Anything else is a key, and must stay what it is."""


class CallerGoneError(WindlassError):
    """Who asked has hung up, or died, in the middle of a request. Nobody reads the answer, and nobody is at fault."""

    code, http_status = "InvalidRequest", 499


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, refused before it is parsed when it is too large.

    Raises:
        PayloadTooLargeError: It has more than ``limit`` bytes, announced or not.
        CallerGoneError: It did not come to its end.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise PayloadTooLargeError(f"The body has {announced} bytes; the limit is {limit}.")
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise PayloadTooLargeError(f"The body has more than {limit} bytes.")
            chunks.append(chunk)
    except ClientDisconnect:
        raise CallerGoneError("The connection was closed before the request was complete.") from None
    return b"".join(chunks)


async def read_message(request: Request, model: type[M]) -> M:
    """Return the message that a body is.

    Raises:
        PayloadTooLargeError: The body is over the cap.
        InvalidRequestError: It is not such a message; the text says where.
    """
    return message_of(await read_body(request, protocol.BODY_LIMIT), model)


def message_of(data: bytes, model: type[M], *, what: str = "The body") -> M:
    """Return the message that a text is.

    Raises:
        InvalidRequestError: It is not such a message; the text says where.
    """
    try:
        if not data.isascii():
            data.decode()  # values of users are not decoded below
        message = msgspec.json.decode(data, type=model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"{what} is not a {model.__name__}: {str(error)[:200]}") from None
    if b"\\u0000" in data:
        _without_nul(message, "$")
    return message


def validated(model: type[B], value: Any, *, at: str = "", what: str = "trigger request") -> B:
    """Return a value of a request as the model that it must be.

    Args:
        model: What it must be.
        value: Decoded JSON.
        at: Where it stands in the body, such as ``children[3].``.
        what: The same for people.

    Raises:
        InvalidRequestError: It is something else; the text names the first place.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    where = at + re.sub(r"^items\.(\d+)", r"items[\1]", where)[:60] or "body"
    if model is BatchRequest and not where.startswith("items["):
        what = "batch request"
    if first["type"] == "extra_forbidden":
        known = ", ".join((TriggerRequest if what == "trigger request" else model).model_fields)
        raise InvalidRequestError(
            f"{where!r} is not a field of a {what}.", field=where, hint=f"The fields are {known}."
        )
    raise InvalidRequestError(
        f"The body is not a {what}: {where}: {first['msg'].removeprefix('Value error, ')}", field=where
    )


def _without_nul(message: Any, path: str) -> None:
    """Spell NUL out in free text and refuse it elsewhere: PostgreSQL's text has none."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        where = f"{path}.{name}"
        if isinstance(value, str) and "\0" in value:
            if name not in _FREE_TEXT:
                raise InvalidRequestError(
                    f"The body has a NUL character at {where}.", field=where, hint="Names and keys have none."
                )
            setattr(message, name, value.replace("\0", "\\u0000"))
        elif isinstance(value, msgspec.Struct):
            _without_nul(value, where)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    _without_nul(item, f"{where}[{index}]")
