"""The one place where errors become HTTP answers."""

import msgspec
import structlog
from starlette.responses import Response

from windlass.protocol import ErrorBody
from windlass_operator.domain.errors import WindlassError

log = structlog.get_logger()


def error_response(error: BaseException) -> Response:
    """Return the answer for an error. One that nobody expected is logged with its traceback and told without it."""
    if not isinstance(error, WindlassError):
        log.error("unexpected error", exc_info=error)
        error = WindlassError("Something went wrong on our side. The API's log has the details.")
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = ErrorBody(code=error.code, message=error.message, field=error.field, hint=error.hint)
    return Response(
        msgspec.json.encode(body), status_code=error.http_status, media_type="application/json", headers=headers
    )
