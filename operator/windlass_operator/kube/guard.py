"""Writes of a leader: sent only while it leads.

The ledger fences a predecessor by its epoch; a status has no such fence. A process that stood still for longer than its
Lease (a stopped process, a frozen machine) may hold what it was about to write, and would overwrite what its successor
has shown since. So each write looks at the clock first, with nothing in between at which it could be stopped for long.
"""

from collections.abc import Callable, Mapping
from typing import Any

from windlass_operator.kube.transport import Answer, Sender


class GuardedTransport:
    """Another transport's connections, for reading at any time and for writing only while the guard says nothing.

    Args:
        transport: Sends the calls; closed by its owner.
        guard: Called before each call that may change something; raises where it must not be sent.
    """

    def __init__(self, transport: Sender, guard: Callable[[], None]) -> None:
        self._transport = transport
        self._guard = guard

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Send one call, as the other transport does, or raise what the guard raises."""
        if method != "GET":
            self._guard()
        return await self._transport.call(method, path, query=query, body=body, content_type=content_type)

    async def close(self) -> None:
        """Leave the connections open: they are another's."""
