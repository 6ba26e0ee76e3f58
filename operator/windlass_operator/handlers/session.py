"""Kopf's way to the API server, with answers that are cut where they are too deep to read (see ``kube.shallow``)."""

from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import kopf

from windlass_operator.kube.shallow import shallow
from windlass_operator.kube.transport import json_body


class _Lines:
    """The body of a watch: whole lines, each cut where it is too deep."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        rest: list[bytes] = []
        async for chunk in self._content.iter_chunked(size):
            head, newline, tail = chunk.rpartition(b"\n")
            if newline:
                for line in b"".join([*rest, head]).split(b"\n"):
                    yield shallow(line) + newline
                rest = []
            rest.append(tail)
        if any(rest):
            yield shallow(b"".join(rest))


class _Response(aiohttp.ClientResponse):
    async def start(self, connection: Any) -> "_Response":
        await super().start(connection)
        self.content = cast("aiohttp.StreamReader", _Lines(self.content))
        return self

    async def json(self, **_: Any) -> Any:
        return json_body(await self.read())


def session(info: kopf.ConnectionInfo) -> kopf.AiohttpSession:
    """Return how kopf reaches the API server. Made as kopf makes its own, but for the answers."""
    connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
    made = aiohttp.ClientSession(
        connector=connector,
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        response_class=_Response,
    )
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        priority=info.priority,
        expiration=info.expiration,
        aiohttp_session=made,
    )
