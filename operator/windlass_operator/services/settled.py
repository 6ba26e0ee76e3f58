"""Run resources that were looked at with success: there is nothing more to learn from them until their spec changes."""

from collections.abc import Container
from typing import Final
from uuid import UUID

_LIMIT: Final = 50_000
"""Resources that are remembered, of a few hundred bytes each. What is beyond costs a full look each time, as before."""


class Settled:
    """Which run each resource shows, as of which generation of its spec.

    The API server counts the generation up with every change of the spec, and with no other. So a resource of the same
    UID and generation asks for what it asked for. Nothing may be concluded from a resource that is not in here.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._known: dict[str, tuple[int, UUID]] = {}

    def note(self, uid: str, generation: object, run_id: UUID) -> None:
        """Remember a resource, after everything that it asks for was done."""
        if type(generation) is int and (uid in self._known or len(self._known) < self._limit):
            self._known[uid] = (generation, run_id)

    def forget(self, uid: str) -> None:
        """Look at this resource as a whole the next time."""
        self._known.pop(uid, None)

    def keep(self, seen: Container[str]) -> None:
        """Forget all others: a deletion that nobody saw must not take a place for ever."""
        self._known = {uid: entry for uid, entry in self._known.items() if uid in seen}

    def run_of(self, uid: object, generation: object) -> UUID | None:
        """Return the run that this resource shows if it still asks for the same; None where it must be looked at."""
        known = self._known.get(uid) if isinstance(uid, str) else None
        return known[1] if known is not None and known[0] == generation else None
