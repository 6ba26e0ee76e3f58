"""How public routes write their answers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from fastapi.responses import Response


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON. ``msgspec.Raw`` parts go out as they were stored."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)


def time_text(value: datetime | None) -> str | None:
    """Return a time as every answer writes it: RFC 3339, in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")
