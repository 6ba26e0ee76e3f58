"""What a run says of itself beside its steps: ``checkpoint`` for one long loop, and ``extend_timeout``."""

import json
import threading
from datetime import timedelta
from typing import Any, Final

import msgspec

from windlass import protocol
from windlass.durations import parse_duration
from windlass.serialization import encode
from windlass.transport import Transport

_NOTHING: Final = b"null"


class Progress:
    """The saved state and the added time of one attempt.

    Args:
        attempt: What the claim brought.
        transport: To the API.
    """

    def __init__(self, attempt: protocol.ClaimedAttempt, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._n = 0
        self._added_ms = 0
        self._ref = attempt.checkpoint_ref
        self._last = bytes(attempt.checkpoint) or _NOTHING

    def load(self) -> None:
        """Fetch a large state, before the code starts: to ask for it then must not stop an event loop."""
        if self._ref is not None:
            self._last = self._transport.get_blob(self._ref)

    def last(self) -> Any:
        """Return the state that was saved last, as plain JSON values of the caller's own; None if none was."""
        return json.loads(self._last)

    def save(self, state: Any) -> None:
        """Save a state in place of the one before."""
        data = encode(state, what="state of checkpoint()")
        with self._lock:
            self._n += 1
            request = protocol.CheckpointRequest(n=self._n)
            if len(data) <= protocol.INLINE_LIMIT:
                request.state = msgspec.Raw(data)
            else:
                request.state_ref = self._transport.put_blob(data)
            self._transport.save_checkpoint(request)
            self._last = data

    def extend(self, duration: "str | timedelta") -> None:
        """Add running time to the limits of the attempt and of the run."""
        more = parse_duration(duration)
        if more <= timedelta(0):
            raise ValueError(f"extend_timeout({duration!r}): write more than nothing, such as '10m'.")
        with self._lock:
            added_ms = min(self._added_ms + round(more.total_seconds() * 1000), protocol.TEN_YEARS)
            self._transport.extend_timeout(protocol.ExtendRequest(added_ms=added_ms))
            self._added_ms = added_ms
