"""What Temporal's server is started with, tuned and as it comes. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

SERVICES: Final = ("frontend", "matching", "history", "worker")
"""All of them run in one process."""
PLUGIN: Final = "postgres12"
_SHARDS: Final = 4
"""What all configurations for one node say that come with the server. It cannot be changed once there is data."""
_CONNECTIONS: Final = 20
"""For each service, as in the configuration for PostgreSQL that comes with the server."""
_UNLIMITED: Final = 1_000_000
_LIMITS: Final = (
    "frontend.rps",
    "frontend.namespaceRPS",
    "frontend.persistenceMaxQPS",
    "history.rps",
    "history.persistenceMaxQPS",
    "matching.rps",
    "matching.persistenceMaxQPS",
)
_PARTITIONS: Final = ("matching.numTaskqueueReadPartitions", "matching.numTaskqueueWritePartitions")
"""Of a task queue. Four by default, for rates that one node does not have; with one, no task is handed on."""
_ON: Final = ("system.enableEagerWorkflowStart", "system.enableActivityEagerExecution")


def tuned() -> dict[str, Any]:
    """Return the dynamic settings of a tuned server on one node."""
    values: dict[str, Any] = {
        **dict.fromkeys(_LIMITS, _UNLIMITED),
        **dict.fromkeys(_PARTITIONS, 1),
        **dict.fromkeys(_ON, True),
    }
    return {name: [{"value": value}] for name, value in values.items()}


def configuration(stores: Mapping[str, str], ports: Sequence[int], *, dynamic: str = "") -> str:
    """Return the server's configuration. YAML, which JSON is.

    Args:
        stores: URI of a database for ``default`` and for ``visibility``.
        ports: Two for each service, all free.
        dynamic: File with dynamic settings; none for a server as it comes.
    """
    services = {
        name: {"rpc": {"grpcPort": grpc, "membershipPort": membership, "bindOnLocalHost": True}}
        for name, grpc, membership in zip(SERVICES, ports[::2], ports[1::2], strict=True)
    }
    told: dict[str, Any] = {
        "log": {"stdout": True, "level": "warn"},
        "persistence": {
            "defaultStore": "default",
            "visibilityStore": "visibility",
            "numHistoryShards": _SHARDS,
            "datastores": {name: {"sql": _store(uri)} for name, uri in stores.items()},
        },
        "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": "127.0.0.1"}},
        "services": services,
        "clusterMetadata": _alone(ports[0]),
        "dcRedirectionPolicy": {"policy": "noop"},
    }
    if dynamic:
        told["dynamicConfigClient"] = {"filepath": dynamic, "pollInterval": "1m"}
    return json.dumps(told, indent=1)


def sql_tool(uri: str) -> list[str]:
    """Return the arguments with which the SQL tool finds a database."""
    place = urlsplit(uri)
    return [
        *("--plugin", PLUGIN, "--endpoint", str(place.hostname), "--port", str(place.port)),
        *("--user", str(place.username), "--database", place.path.lstrip("/")),
    ]


def _store(uri: str) -> dict[str, Any]:
    place = urlsplit(uri)
    return {
        "pluginName": PLUGIN,
        "databaseName": place.path.lstrip("/"),
        "connectAddr": f"{place.hostname}:{place.port}",
        "connectProtocol": "tcp",
        "user": place.username,
        "password": "",
        "maxConns": _CONNECTIONS,
        "maxIdleConns": _CONNECTIONS,
        "maxConnLifetime": "1h",
    }


def _alone(port: int) -> dict[str, Any]:
    name = "active"
    itself = {"enabled": True, "initialFailoverVersion": 1, "rpcName": "frontend", "rpcAddress": f"127.0.0.1:{port}"}
    return {
        "enableGlobalNamespace": False,
        "failoverVersionIncrement": 10,
        "masterClusterName": name,
        "currentClusterName": name,
        "clusterInformation": {name: itself},
    }
