"""A DBOS client in the peers' own environment.

Argument: JSON with ``uri`` and ``polling``: by task, the seconds between two looks for a result.
"""

import asyncio
import json
import sys
from typing import Any

from dbos import DBOSClient

from bench.peers.load import serve


def main() -> None:
    """Trigger runs as they are ordered."""
    order = json.loads(sys.argv[1])
    client = DBOSClient(system_database_url=order["uri"])
    reading = {task: {"polling_interval_sec": seconds} for task, seconds in order["polling"].items()}

    async def trigger(task: str, key: str, argument: int) -> Any:
        options: Any = {"queue_name": "bench", "workflow_name": task, "workflow_id": key}
        handle: Any = await client.enqueue_async(options, key, argument)
        return await handle.get_result(**reading.get(task, {}))

    asyncio.run(serve(trigger))


if __name__ == "__main__":
    main()
