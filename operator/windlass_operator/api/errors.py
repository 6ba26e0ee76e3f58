"""The one place where errors become HTTP answers."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from windlass.protocol import ErrorBody
from windlass_operator.domain.errors import InvalidRequestError, WindlassError

log = structlog.get_logger()


class NoRouteError(WindlassError):
    """A path or method that is not served."""

    def __init__(self, status: int, *, headers: Mapping[str, str] | None = None) -> None:
        self.http_status = status
        self.headers = dict(headers or {})
        self.code = {404: "NotFound", 405: "MethodNotAllowed"}.get(status, "InvalidRequest")
        super().__init__(f"{HTTPStatus(status).phrase}.", hint="/openapi.json lists what is served.")


class OddPathError(WindlassError):
    """A path that readers of URLs understand differently: what one of them checked, another would not serve."""

    code, http_status = "InvalidRequest", 400

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The path has {what}.", field="path", hint="Names of namespaces, tasks and runs need no such characters."
        )


def error_response(error: BaseException) -> Response:
    """Return the answer for an error. One that nobody expected is logged with its traceback and told without it."""
    error = _known(error)
    headers = dict(error.headers) if isinstance(error, NoRouteError) else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(_body(error)), status_code=error.http_status, media_type="application/json", headers=headers
    )


def error_body(error: BaseException) -> tuple[int, ErrorBody]:
    """Return status and body of the answer for an error, where it is one of many in an answer."""
    known = _known(error)
    return known.http_status, _body(known)


def _known(error: BaseException) -> WindlassError:
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return NoRouteError(error.status_code, headers=error.headers)
    if isinstance(error, WindlassError):
        return error
    log.error("unexpected error", exc_info=error)
    return WindlassError("Something went wrong on our side. The API's log has the details.")


def _body(error: WindlassError) -> ErrorBody:
    return ErrorBody(code=error.code, message=_sendable(error.message), field=error.field, hint=error.hint)


def _invalid(error: RequestValidationError) -> InvalidRequestError:
    problem = error.errors()[0]
    # Parameters have no inside: which of several values of one is wrong, the message quotes.
    where = str(problem["loc"][1] if len(problem["loc"]) > 1 else problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return InvalidRequestError(
            f"{where[:60]!r} is not a query parameter of this route.",
            field=where[:60],
            hint="/openapi.json lists the parameters of each route.",
        )
    return InvalidRequestError(f"{where[:60]}: {str(problem['msg']).removeprefix('Value error, ')}", field=where[:60])


def _sendable(text: str) -> str:
    """Return the text without what UTF-8 cannot carry: it may quote what somebody sent."""
    return text.encode(errors="backslashreplace").decode()
