"""One bounded HTTP call to the API server, over the session, TLS and credential handling of ``kubernetes.aio``.

The generated models of that library are not used: building a pydantic object tree for each answer costs more than the
call. Only its transport is, because it knows kubeconfigs, client certificates and rotating service-account tokens.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from urllib.parse import urlencode
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import kube_config
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config

from windlass_operator.kube.errors import KubeConfigError, KubeUnavailableError
from windlass_operator.kube.shallow import shallow

CALL_TIMEOUT: Final = 10.0
"""Seconds for one call, body included. An API server that needs longer is one to come back to."""

CONNECT_TIMEOUT: Final = 3.0
"""Seconds for a connection: a dead replica behind a load balancer must not use up the whole call."""

CONNECTIONS: Final = 32
"""Calls in flight. The API server's fairness queues give one client little more; the rest waits here, in order."""

_TIMEOUT: Final = aiohttp.ClientTimeout(total=CALL_TIMEOUT, sock_connect=CONNECT_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and whole body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return 200 <= self.status < 300


class Sender(Protocol):
    """What a client needs of a transport."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Send one call and read its answer."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Transport:
    """Sends calls; knows no kinds and no meaning of a status."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS
        # Python 3.13 demands extensions that many clusters' own authorities lack; kubectl and Go do not ask for them.
        configuration.disable_strict_ssl_verification = True
        # Where it may be needed, the environment is asked for a proxy before each call, in a thread of its own.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
        self._api: Any = ApiClient(configuration)
        self._api.user_agent = "windlass-operator"

    async def close(self) -> None:
        """Close every connection."""
        await self._api.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Send one call and read its answer.

        Raises:
            KubeUnavailableError: No answer: refused, reset, or too late. A write may have happened.
        """
        url = f"{self._api.configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        headers = {"Accept": "application/json", "Content-Type": content_type, **self._api.default_headers}
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            raw = await self._api.call_api(method, url, headers, body, _request_timeout=_TIMEOUT)
            async with cast("aiohttp.ClientResponse", raw.response) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KubeUnavailableError(_why(method, path, error)) from error
        except (ConfigException, OSError) as error:
            # The service-account token is being rotated under us, or the network is gone below HTTP.
            raise KubeUnavailableError(f"Cannot {method} {path}: {error}") from error


async def find_configuration(env: Mapping[str, str] | None = None) -> Configuration:
    """Return how to reach the API server: ``KUBECONFIG``, else the pod's service account, else ``~/.kube/config``.

    Raises:
        KubeConfigError: None of them is there, or the one that is cannot be read.
    """
    env = os.environ if env is None else env
    configuration = Configuration()
    # The library's loaders carry no type annotations.
    from_service_account = cast("Any", load_incluster_config)
    from_file = cast("Any", kube_config.load_kube_config)
    try:
        if path := env.get("KUBECONFIG"):
            await from_file(config_file=path, client_configuration=configuration, persist_config=False)
        elif env.get("KUBERNETES_SERVICE_HOST"):
            from_service_account(client_configuration=configuration)
        else:
            await from_file(config_file="~/.kube/config", client_configuration=configuration, persist_config=False)
    except Exception as error:  # The loaders raise whatever a missing or malformed file leads to.
        raise KubeConfigError(
            f"Cannot find out how to reach Kubernetes: {error}. Set KUBECONFIG to a readable kubeconfig, "
            "or run in a pod with a service account."
        ) from error
    return configuration


def json_body(body: bytes) -> Any:
    """Decode an answer. What is deeper in it than this process can read is null.

    Raises:
        KubeUnavailableError: It is not JSON (a proxy's page).
    """
    try:
        try:
            return json.loads(body)
        except RecursionError:
            return json.loads(shallow(body))
    except (ValueError, RecursionError) as error:
        raise KubeUnavailableError(f"The API server's answer cannot be read: {error}") from error


def _why(method: str, path: str, error: BaseException) -> str:
    said = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        said = f"no answer within {CALL_TIMEOUT:g} s"
    return f"Cannot {method} {path}: {said}. Check that the API server is up and reachable from this pod."
