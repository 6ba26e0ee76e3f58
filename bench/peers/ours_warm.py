"""Ours as a contestant of the warm rows: runners that take one run after the other.

A warm row of ours needs a runner that stays: a WorkerPool's pod, with slots. Where the tree has none, each run gets a
runner process of its own, and a start-up would be compared with workers that have been up for long. So there is no
figure then, and no figure of anything else stands in its place.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.peers.warm_systems import Warm
from tests.support.postgres import PostgresServer

NOT_MEASURED = "runners of this tree take one run each"
KINDS = {"ours, forked child": "fork", "ours, in-process": "in-process"}
"""Contestants by name, and how their runners execute."""


def there() -> list[str]:
    """Return the contestants of ours that this tree has."""
    return []


@asynccontextmanager
async def ours(_server: PostgresServer, _kind: str) -> AsyncIterator[Warm]:
    """API and one reusable runner with slots, for the duration of the block.

    To be had when runners can be reused: start ``bench.rest_process`` and a runner with slots whose code leaves effects
    (``WINDLASS_BENCH_EFFECTS``), give ``bench.peers.http_client`` the URL and a token, and yield a ``Warm`` with them.
    """
    raise NotImplementedError(NOT_MEASURED)
    yield
