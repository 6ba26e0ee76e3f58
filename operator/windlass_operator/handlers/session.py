"""Kopf's way to the API server: what is too deep to read is cut, what tells us nothing new is taken out.

See ``kube.shallow`` and ``handlers.echoes``.
"""

import dataclasses
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import aiohttp
import kopf

from windlass_operator.handlers.echoes import ShowsNothingNew, without_echo
from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.kube.shallow import shallow
from windlass_operator.kube.transport import json_body


class _Lines:
    """The body of a watch: whole lines, each cut where it is too deep."""

    def __init__(self, content: aiohttp.StreamReader, shows_nothing_new: ShowsNothingNew) -> None:
        self._content = content
        self._shows_nothing_new = shows_nothing_new

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        rest: list[bytes] = []
        async for chunk in self._content.iter_chunked(size):
            head, newline, tail = chunk.rpartition(b"\n")
            if newline:
                for line in b"".join([*rest, head]).split(b"\n"):
                    yield without_echo(shallow(line), self._shows_nothing_new) + newline
                rest = []
            rest.append(tail)
        if any(rest):
            yield shallow(b"".join(rest))


def _response(shows_nothing_new: ShowsNothingNew) -> type[aiohttp.ClientResponse]:
    """Return the class of answers. Aiohttp makes them by itself, so what they need is in the class."""

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> "Response":
            await super().start(connection)
            self.content = cast("aiohttp.StreamReader", _Lines(self.content, shows_nothing_new))
            return self

        async def json(self, **_: Any) -> Any:
            body = await self.read()
            try:
                return json_body(body)
            except KubeUnavailableError as error:
                # With this error kopf takes a refusal that is text ("404 page not found", of a CRD's API that comes or
                # goes) for what it is. Any other ends the operator.
                raise json.JSONDecodeError(str(error), body.decode(errors="replace"), 0) from error

    return Response


def by_address(info: kopf.ConnectionInfo, env: Mapping[str, str] | None = None) -> kopf.ConnectionInfo:
    """Return the way to the API server that a pod's environment names, in the place of its name in DNS.

    Every other client in the pod goes there. Watches must not need the cluster's name service, nor go another way
    where an installation leads its pods through a proxy by these variables.
    """
    env = os.environ if env is None else env
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT") or "443"
    if not host:
        return info
    return dataclasses.replace(info, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")


def session(info: kopf.ConnectionInfo, shows_nothing_new: ShowsNothingNew) -> kopf.AiohttpSession:
    """Return how kopf reaches the API server. Made as kopf makes its own, but for the answers."""
    connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
    made = aiohttp.ClientSession(
        connector=connector,
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        response_class=_response(shows_nothing_new),
    )
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        priority=info.priority,
        expiration=info.expiration,
        aiohttp_session=made,
    )
