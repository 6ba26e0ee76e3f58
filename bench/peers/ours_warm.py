"""Ours as a contestant of the warm rows: runners that take one run after the other.

A warm row of ours needs a runner that stays: a WorkerPool's, with slots. Where the tree has none, each run gets a
runner process of its own, and a start-up would be compared with workers that have been up for long. So there is no
figure then, and no figure of anything else stands in its place.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from bench.peers.processes import OURS, piped
from bench.peers.warm_systems import Warm, effects_file
from tests.support.postgres import PostgresServer
from windlass_operator.resources import names
from windlass_operator.resources.worker_pool import WorkerPoolSpec

FORKED: Final = "ours, forked child"
IN_PROCESS: Final = "ours, in-process"
KINDS: Final = (FORKED, IN_PROCESS)
NOT_MEASURED: Final = "this tree's runners cannot do that"
_SLOTS: Final = 100
_TOKEN: Final = "token-of-the-bench"


def there() -> list[str]:
    """Return the contestants of ours that this tree has: none, where runners take one run each."""
    forked = [FORKED] if hasattr(names, "WORKER_POOL_KIND") else []
    return [*forked, IN_PROCESS] if "execution" in WorkerPoolSpec.model_fields else forked


@asynccontextmanager
async def ours(server: PostgresServer, name: str) -> AsyncIterator[Warm]:
    """Run control plane and a pool of one runner for the duration of the block.

    Args:
        server: Where its ledger is.
        name: Whether each run gets a forked child, or all of them share a process.
    """
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        order = {
            "uri": server.create_database(),
            "effects": str(effects),
            "slots": _SLOTS,
            "execution": "InProcess" if name == IN_PROCESS else "Fork",
            "token": _TOKEN,
        }
        plane = await stack.enter_async_context(piped(OURS, "bench.peers.ours_process", json.dumps(order)))
        url = await plane.ask({})
        asked = json.dumps({"url": url, "token": _TOKEN})
        client = await stack.enter_async_context(piped(OURS, "bench.peers.http_client", asked))
        await client.ask({"task": "noop", "prefix": "first", "count": 1, "at_once": 1})  # until the pool is there
        effects.write_bytes(b"")
        yield Warm(effects, client, [plane.pid], pauses=False, server=server)
