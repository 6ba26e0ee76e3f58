"""An operator that only watches Runs: kopf, one handler, and what kopf imports. Says when it has seen enough."""

import asyncio
import sys
from typing import Any

import kopf
import uvloop


def main() -> None:
    """Watch until a signal."""
    wanted = int(sys.argv[1])
    seen = 0

    @kopf.on.event("windlass.dev", "v1alpha1", "runs")
    async def run_seen(**_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == wanted:
            print(f"seen {seen}", flush=True)

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # as ours
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(kopf.operator(clusterwide=True, standalone=True, settings=settings))


if __name__ == "__main__":
    main()
