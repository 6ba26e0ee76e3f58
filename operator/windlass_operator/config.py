"""Configuration of the control plane, read once from the environment that the chart sets."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from windlass.durations import InvalidDurationError, parse_duration
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
        public_url: By which address people and systems outside reach the API: tokens are completed there. Empty: as
            runners do.
        event_retention: How long events are kept, and tokens after the end of their run.
        runner_image: Image of Tasks that name none.
        runner_identity: ``secret`` (fast) or ``token`` (projected service-account token).
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_style: ``json`` or ``console``; empty: console in a terminal, JSON elsewhere.
        port: Port of this process's HTTP server.
        pool_size: Connections to Postgres.
        max_starting_pods: Pods that may be on their way at once, over all keys.
        approval_ttl: How long an Approval stays after its run's end.
        metrics_tasks: Tasks that keep their names in the labels of metrics; the others share one value.
        traces: Whether spans are sent: an OTLP endpoint is configured.
        trace_ratio: Share of the runs without a caller's trace that get one of their own.
    """

    postgres_uri: str = field(repr=False)
    s3: S3Config | None = None
    namespaces: tuple[str, ...] = ()
    release_namespace: str = "windlass-system"
    pod_name: str = "windlass"
    api_url: str = "http://windlass-api.windlass-system.svc:8080"
    public_url: str = ""
    event_retention: timedelta = timedelta(days=30)
    runner_image: str = "docker.io/windlass/runner:dev"
    runner_identity: str = "secret"
    log_level: str = "info"
    log_style: str = ""
    port: int = 8080
    pool_size: int = 8
    max_starting_pods: int = 100
    approval_ttl: timedelta = timedelta(hours=1)
    metrics_tasks: int = 200
    traces: bool = False
    trace_ratio: float = 1.0

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
        return cls(
            postgres_uri=uri,
            s3=_s3(env),
            namespaces=tuple(n.strip() for n in env.get("WINDLASS_NAMESPACES", "").split(",") if n.strip()),
            release_namespace=env.get("WINDLASS_RELEASE_NAMESPACE", cls.release_namespace),
            pod_name=env.get("POD_NAME", cls.pod_name),
            api_url=env.get("WINDLASS_API_URL", cls.api_url),
            public_url=_url(env, "WINDLASS_PUBLIC_URL"),
            event_retention=_days(env, "WINDLASS_EVENT_RETENTION", cls.event_retention),
            runner_image=env.get("WINDLASS_RUNNER_IMAGE", cls.runner_image),
            runner_identity=_one_of(env, "WINDLASS_RUNNER_IDENTITY", ("secret", "token")),
            log_level=env.get("WINDLASS_LOG_LEVEL", cls.log_level),
            log_style=_one_of(env, "WINDLASS_LOG_STYLE", ("", "json", "console")),
            port=_number(env, "WINDLASS_PORT", cls.port),
            pool_size=_number(env, "WINDLASS_POOL_SIZE", cls.pool_size),
            max_starting_pods=_number(env, "WINDLASS_MAX_STARTING_PODS", cls.max_starting_pods),
            approval_ttl=_duration(env, "WINDLASS_APPROVAL_TTL", cls.approval_ttl),
            metrics_tasks=_number(env, "WINDLASS_METRICS_TASKS", cls.metrics_tasks),
            traces=_traces(env),
            trace_ratio=_ratio(env, "OTEL_TRACES_SAMPLER_ARG", cls.trace_ratio),
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


def _url(env: Mapping[str, str], name: str) -> str:
    text = env.get(name, "")
    if text and not re.fullmatch(r"https?://[^\s?#]+", text):
        raise ConfigError(f"{name} is {text[:80]!r}; it must be an address such as https://windlass.example.com.")
    return text


def _days(env: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    """Return how long something is kept: a day at least, or what is sent again would not be known as the same."""
    text = env.get(name, "")
    try:
        value = parse_duration(text) if text else default
    except InvalidDurationError:
        value = timedelta(0)
    if value < timedelta(days=1):
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a duration of at least a day, such as 30d.")
    return value


def _traces(env: Mapping[str, str]) -> bool:
    """Tracing is on where OpenTelemetry's own variables name a receiver."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(env.get(name) for name in endpoints) and env.get("OTEL_SDK_DISABLED", "").lower() != "true"


def _ratio(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a number from 0 to 1: the share of runs to trace.")
    return value


def _one_of(env: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Return a variable's value; the first of those that are allowed is the default."""
    value = env.get(name, allowed[0])
    if value not in allowed:
        choice = " or ".join(f"`{word}`" for word in allowed if word)
        raise ConfigError(f"{name} is {value[:40]!r}; it must be {choice}.")
    return value


def _duration(env: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    text = env.get(name, "")
    try:
        return parse_duration(text) if text else default
    except InvalidDurationError as error:
        raise ConfigError(f"{name}: {error}") from None


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} is {text[:40]!r}; it must be a whole number.") from None
