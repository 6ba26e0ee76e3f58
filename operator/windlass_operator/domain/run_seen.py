"""A Run resource as a list showed it: what tells whether it must be read as a whole, and a way to do that."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RunSeen:
    """One resource of a list."""

    uid: str
    generation: int
    run_id: str | None
    """What its status names, whoever wrote it."""
    deleting: bool
    body: Callable[[], dict[str, Any]]
    """Reads the whole resource: most of the work of looking at thousands of them."""
    namespace: str = ""
    name: str = ""
    state: str | None = None
    """What its status says, as its reason does."""
    reason: str | None = None
    created: datetime | None = None
