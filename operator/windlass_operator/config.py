"""Configuration of the control plane, read once from the environment that the chart sets."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from windlass_operator.domain.errors import WindlassError

LEASE: Final = timedelta(seconds=30)
"""How long a runner may stay silent before its attempt may be given to another: three missed heartbeats."""

FIRST_LEASE: Final = timedelta(seconds=10)
"""The lease of a claim. Shorter: a runner that dies between the answer and its first heartbeat has done nothing."""

HEARTBEAT: Final = timedelta(seconds=10)
CANCEL_GRACE: Final = timedelta(seconds=10)
POD_GRACE: Final = timedelta(seconds=20)
"""Termination grace of a runner pod: cancel grace, then time to report."""


class ConfigError(WindlassError):
    """A variable is missing or wrong; the process cannot start."""

    code = "ConfigInvalid"


@dataclass(frozen=True, slots=True)
class S3Config:
    """Where large values go. Without it they are rows of the ledger, up to 8 MiB."""

    endpoint: str | None
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True)
class Config:
    """Everything that an installation can set.

    Attributes:
        postgres_uri: libpq URI of the ledger.
        s3: Object store, or None.
        namespaces: The listed namespaces, or empty for the whole cluster.
        release_namespace: Where the control plane runs. Tasks in it are refused: they could mount its credentials.
        pod_name: Identity of this process, for the Lease.
        api_url: What runners call.
        runner_image: Image of Tasks that name none.
        runner_identity: ``secret`` (fast) or ``token`` (projected service-account token).
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        port: Port of this process's HTTP server.
        pool_size: Connections to Postgres.
        max_starting_pods: Pods that may be on their way at once, over all keys.
    """

    postgres_uri: str = field(repr=False)
    s3: S3Config | None = None
    namespaces: tuple[str, ...] = ()
    release_namespace: str = "windlass-system"
    pod_name: str = "windlass"
    api_url: str = "http://windlass-api.windlass-system.svc:8080"
    runner_image: str = "docker.io/windlass/runner:dev"
    runner_identity: str = "secret"
    log_level: str = "info"
    port: int = 8080
    pool_size: int = 8
    max_starting_pods: int = 100

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Config":
        """Read the environment.

        Raises:
            ConfigError: A required variable is missing or a value is wrong; the text names it.
        """
        env = os.environ if env is None else env
        uri = env.get("WINDLASS_POSTGRES_URI", "")
        if not uri:
            raise ConfigError(
                "WINDLASS_POSTGRES_URI is not set. The chart takes it from the Secret `windlass-postgres`, key `uri`."
            )
        identity = env.get("WINDLASS_RUNNER_IDENTITY", "secret")
        if identity not in ("secret", "token"):
            raise ConfigError(f"WINDLASS_RUNNER_IDENTITY is {identity!r}; it must be `secret` or `token`.")
        return cls(
            postgres_uri=uri,
            s3=_s3(env),
            namespaces=tuple(n.strip() for n in env.get("WINDLASS_NAMESPACES", "").split(",") if n.strip()),
            release_namespace=env.get("WINDLASS_RELEASE_NAMESPACE", cls.release_namespace),
            pod_name=env.get("POD_NAME", cls.pod_name),
            api_url=env.get("WINDLASS_API_URL", cls.api_url),
            runner_image=env.get("WINDLASS_RUNNER_IMAGE", cls.runner_image),
            runner_identity=identity,
            log_level=env.get("WINDLASS_LOG_LEVEL", cls.log_level),
            port=_number(env, "WINDLASS_PORT", cls.port),
            pool_size=_number(env, "WINDLASS_POOL_SIZE", cls.pool_size),
            max_starting_pods=_number(env, "WINDLASS_MAX_STARTING_PODS", cls.max_starting_pods),
        )


def _s3(env: Mapping[str, str]) -> S3Config | None:
    bucket = env.get("WINDLASS_S3_BUCKET", "")
    if not bucket:
        return None
    missing = [n for n in ("WINDLASS_S3_ACCESS_KEY", "WINDLASS_S3_SECRET_KEY") if not env.get(n)]
    if missing:
        raise ConfigError(f"WINDLASS_S3_BUCKET is set but {', '.join(missing)} is not. See the Secret `windlass-s3`.")
    return S3Config(
        endpoint=env.get("WINDLASS_S3_ENDPOINT") or None,
        bucket=bucket,
        access_key=env["WINDLASS_S3_ACCESS_KEY"],
        secret_key=env["WINDLASS_S3_SECRET_KEY"],
        region=env.get("WINDLASS_S3_REGION") or "us-east-1",
    )


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a whole number.") from None
