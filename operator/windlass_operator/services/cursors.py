"""Cursors of run lists: where a page ended, as a text that means something to us alone."""

import base64
import binascii
import json
from datetime import UTC, datetime
from uuid import UUID

from windlass_operator.domain.errors import InvalidRequestError
from windlass_operator.ledger.run_lists import Order, Position


def to_cursor(order: Order, position: Position) -> str:
    """Return the cursor that goes on after this position."""
    at = position.at.astimezone(UTC).replace(tzinfo=None).isoformat()
    text = json.dumps([order, at, str(position.id)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(cursor: str, order: Order) -> Position:
    """Return the position that a cursor names.

    Raises:
        InvalidRequestError: No list returned it, or one in another order did.
    """
    try:
        text = base64.b64decode(cursor[:500] + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        of, at, run_id = json.loads(text)
        # Z is not in the cursor, so that no other zone can be.
        position = Position(datetime.fromisoformat(at + "Z"), UUID(run_id))
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise InvalidRequestError(
            "The cursor is not one that a list returned.", field="cursor", hint="Begin again without a cursor."
        ) from None
    if of != order:
        raise InvalidRequestError(
            "The cursor belongs to a list in another order.",
            field="cursor",
            hint="Keep sort and the filters as they were, or begin again without a cursor.",
        )
    return position
