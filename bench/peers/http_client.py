"""A client of Restate or of Windlass, over kept HTTP connections.

Argument: JSON with ``url``; for Windlass also ``token``. Both answer the trigger with the result; Windlass answers it
with the run after a minute, whose result is then asked for.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp

from bench.peers.load import Trigger, serve

_PATIENCE = aiohttp.ClientTimeout(total=180)


def _restate(session: aiohttp.ClientSession, url: str) -> Trigger:
    async def trigger(task: str, key: str, argument: int) -> Any:
        body = {"key": key, "count": argument}
        async with session.post(f"{url}/warm/{task}", json=body) as answer:
            answer.raise_for_status()
            return await answer.json()

    return trigger


def _windlass(session: aiohttp.ClientSession, url: str, token: str) -> Trigger:
    headers = {"Authorization": f"Bearer {token}"}

    async def trigger(task: str, key: str, argument: int) -> Any:
        body: Any = {"payload": {"key": key, "count": argument}}
        method, asked = "POST", f"{url}/tasks/{task}/runs?wait=60s"
        while True:
            async with session.request(method, asked, json=body, headers=headers) as answer:
                said = await answer.json()
            if answer.status == 200:
                return said
            if answer.status != 202:
                raise RuntimeError(f"{key}: {answer.status} {said}")
            method, asked, body = "GET", f"{url}/runs/{said['id']}/result?wait=60s", None

    return trigger


async def main() -> None:
    """Trigger runs as they are ordered."""
    order = json.loads(sys.argv[1])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_PATIENCE) as session:
        token = order.get("token")
        await serve(_windlass(session, order["url"], token) if token else _restate(session, order["url"]))


if __name__ == "__main__":
    asyncio.run(main())
