"""Every metric of the control plane. Services record the counters; one query of the leader fills the gauges.

Labels are bounded. The only ones that users can make grow are namespace and task: the first ``task_labels.limit``
pairs that a process sees keep their names, and all others share ``_other``, which no Kubernetes object can be called.
No label ever carries an id, a path or a message.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads
REGISTRY: Final = CollectorRegistry()
"""Ours alone: what a library registers by itself is no part of what we document."""

OTHER: Final = "_other"
"""Label value of what is beyond the bound."""

_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: requests and statements. The long polls of runners and of people end after at most 60 s."""
_LONG: Final = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
"""Seconds: what runs take and wait for."""
_TASK: Final = ("namespace", "task")


class TaskLabels:
    """Bounds the values of ``namespace`` and ``task``.

    Args:
        limit: Pairs that keep their names, in this process and until it ends.
    """

    def __init__(self, limit: int = 200) -> None:
        self.limit = limit
        self._known: set[tuple[str, str]] = set()

    def __call__(self, namespace: str, task: str) -> tuple[str, str]:
        """Return the labels of a task: its own, or the ones that all tasks beyond the bound share."""
        pair = (namespace, task)
        if pair in self._known:
            return pair
        if len(self._known) < self.limit:
            self._known.add(pair)
            return pair
        return (OTHER, OTHER)


task_labels: Final = TaskLabels()

# Runs and attempts
RUNS_ACCEPTED: Final = Counter(
    "windlass_runs_accepted",
    "Runs that were accepted, by where they came from: `rest`, `resource` for a Run, `run` for the code of another.",
    [*_TASK, "source"],
    registry=REGISTRY,
)
RUNS_FINISHED: Final = Counter(
    "windlass_runs_finished",
    "Runs that reached a final state. `class` says who has to answer for a failure, `none` where there is none.",
    [*_TASK, "state", "class"],
    registry=REGISTRY,
)
RUN_DURATION: Final = Histogram(
    "windlass_run_duration_seconds",
    "From the first claim of a run to its final state. A run that never started is not in it.",
    _TASK,
    buckets=_LONG,
    registry=REGISTRY,
)
QUEUE_WAIT: Final = Histogram(
    "windlass_queue_wait_seconds",
    "From when an attempt could start to its claim. The delay before a retry is not in it.",
    _TASK,
    buckets=_LONG,
    registry=REGISTRY,
)
ATTEMPTS_ENDED: Final = Counter(
    "windlass_attempts_ended",
    "Attempts that ended, by outcome: Succeeded, Failed, TimedOut, Cancelled, Waiting, Suspended, Compensated, "
    "Released, Lost.",
    [*_TASK, "outcome"],
    registry=REGISTRY,
)
RETRIES: Final = Counter(
    "windlass_retries",
    "Attempts whose end led to another one, by the class of the failure.",
    [*_TASK, "class"],
    registry=REGISTRY,
)
ATTEMPTS_LOST: Final = Counter(
    "windlass_attempts_lost",
    "Attempts that were closed because nobody would have ended them, by cause.",
    ["reason"],
    registry=REGISTRY,
)
FENCED_REFUSALS: Final = Counter(
    "windlass_fenced_refusals",
    "Writes of attempts that were closed already, refused: zombies, and runners that were cut off for too long.",
    ["operation"],
    registry=REGISTRY,
)
WAITS_DUE: Final = Counter(
    "windlass_waits_due",
    "Durable waits that ended because their time had come: sleeps, and timeouts of the others.",
    registry=REGISTRY,
)
EVENTS_SENT: Final = Counter(
    "windlass_events_sent",
    "Events that were sent, by where they came from: `rest` or `run`. Repeats with the same id do not count.",
    ["source"],
    registry=REGISTRY,
)
EVENTS_DELIVERED: Final = Counter(
    "windlass_events_delivered",
    "Waits for events that ended because an event came, or was there.",
    registry=REGISTRY,
)
CALLBACKS: Final = Counter(
    "windlass_callbacks",
    "Requests to the addresses of tokens, by outcome: completed, repeated, conflict, ended, unknown, invalid.",
    ["outcome"],
    registry=REGISTRY,
)
STEPS_SAVED: Final = Counter(
    "windlass_steps_saved",
    "Writes of steps, by state. `succeeded` ones are the checkpoints.",
    ["state"],
    registry=REGISTRY,
)
LOG_LINES: Final = Counter("windlass_log_lines", "Log lines that runners sent.", registry=REGISTRY)

# The control plane itself
HTTP_SECONDS: Final = Histogram(
    "windlass_http_request_seconds",
    "Requests to the API by route template; `status` is the class, such as 2xx. Long polls count with their wait.",
    ["method", "route", "status"],
    buckets=_SHORT,
    registry=REGISTRY,
)
LEDGER_SECONDS: Final = Histogram(
    "windlass_ledger_seconds",
    "Statements and transactions on the ledger, with the wait for a connection and every retry.",
    ["kind"],
    buckets=_SHORT,
    registry=REGISTRY,
)
LEDGER_FAILURES: Final = Counter(
    "windlass_ledger_failures",
    "Tries of a statement or transaction that Postgres did not answer, or refused for a passing reason.",
    ["kind"],
    registry=REGISTRY,
)
HEARTBEAT_GAPS: Final = Counter(
    "windlass_heartbeat_gaps",
    "Gaps in the heartbeat service that ended. After each, every open attempt got one lease more.",
    registry=REGISTRY,
)
HEARTBEAT_GAP_SECONDS: Final = Counter(
    "windlass_heartbeat_gap_seconds", "How long those gaps were, in sum.", registry=REGISTRY
)
RUNS_OBSERVED: Final = Counter(
    "windlass_runs_observed",
    "Looks at a Run resource, by what brought them about: an event of the watch, or a resync.",
    ["by"],
    registry=REGISTRY,
)
IMPORT_ERRORS: Final = Counter(
    "windlass_import_errors",
    "Run resources that could not be imported when they were looked at, by the error's code.",
    ["reason"],
    registry=REGISTRY,
)
PODS_CREATED: Final = Counter("windlass_pods_created", "Runner pods that were created.", registry=REGISTRY)
PODS_REFUSED: Final = Counter(
    "windlass_pods_refused", "Runner pods that Kubernetes refused, by the error's code.", ["reason"], registry=REGISTRY
)
PROTECTION_FAILURES: Final = Counter(
    "windlass_protection_failures",
    "Tries to mark a pod for a protected step, or to take the marks off, that failed. Each is repeated.",
    registry=REGISTRY,
)
PROJECTION_DELAY: Final = Histogram(
    "windlass_projection_delay_seconds",
    "From a change of a run to its status having been written, for each write.",
    buckets=_SHORT,
    registry=REGISTRY,
)
LOOP_FAILURES: Final = Counter(
    "windlass_loop_failures", "Rounds of the operator's loops that failed.", ["loop"], registry=REGISTRY
)
LOOP_SUCCESS: Final = Gauge(
    "windlass_loop_last_success_timestamp_seconds",
    "When a loop of the operator last got through, in seconds since 1970.",
    ["loop"],
    registry=REGISTRY,
)
SPANS: Final = Counter(
    "windlass_spans", "Spans handed to the exporter of traces. Stays 0 where tracing is off.", registry=REGISTRY
)
SPANS_DROPPED: Final = Counter(
    "windlass_spans_dropped",
    "Ends of runs and attempts whose spans were not made, because the exporter was too far behind.",
    registry=REGISTRY,
)
BUILD: Final = Gauge("windlass_build_info", "Always 1; the label is the release.", ["version"], registry=REGISTRY)


@dataclass(frozen=True, slots=True)
class LedgerGauge:
    """A gauge that only the leader has, because only one process may count the ledger."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


LEDGER_GAUGES: Final = (
    LedgerGauge("windlass_leader", "1 in the process that leads."),
    LedgerGauge("windlass_runs", "Unfinished runs.", (*_TASK, "state")),
    LedgerGauge(
        "windlass_runs_held", "Queued runs that something holds, by the reason their status shows.", ("reason",)
    ),
    LedgerGauge("windlass_queue_oldest_seconds", "For how long the run that waits longest could have been claimed."),
    LedgerGauge(
        "windlass_pods", "Runner pods by state: Planned, Created, Claimed, and Ended but not deleted.", ("state",)
    ),
    LedgerGauge(
        "windlass_standby_pods",
        "Pods that are kept ready, each for one attempt, and have taken none: those that start, and those that wait.",
        ("doing",),
    ),
    LedgerGauge("windlass_protected_pods", "Pods that cluster tools are asked not to remove, for a protected step."),
    LedgerGauge(
        "windlass_pool_runs",
        "Runs of worker pools: queued, which wait to start, and running, which are in a pod.",
        ("namespace", "pool", "doing"),
    ),
    LedgerGauge(
        "windlass_pool_pods",
        "Pods of worker pools: busy, which have a run, idle, and starting.",
        ("namespace", "pool", "doing"),
    ),
    LedgerGauge("windlass_projection_backlog", "Run resources whose status is behind."),
    LedgerGauge("windlass_projection_lag_seconds", "For how long the status that is behind the most has been behind."),
    LedgerGauge("windlass_heartbeat_service_age_seconds", "Time since any API process could last serve heartbeats."),
)
"""What one look at the ledger says. Absent everywhere but on the leader, and there when the last look is too old."""


@dataclass(frozen=True, slots=True)
class Look:
    """The values of one look at the ledger: gauge → labels → value."""

    values: Mapping[str, Mapping[tuple[str, ...], float]]
    at: float = field(default_factory=time.monotonic)


class LedgerLook(Collector):
    """Shows the last look for as long as it is fresh: an old number is worse than none.

    Args:
        fresh: Seconds for which a look counts.
    """

    def __init__(self, fresh: float = 60.0) -> None:
        self._fresh = fresh
        self._look: Look | None = None

    def show(self, look: Look | None) -> None:
        """Replace what is shown; scrapes come from another thread and see either the old or the new one."""
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of a fresh look."""
        look = self._look
        if look is None or time.monotonic() - look.at > self._fresh:
            return
        for gauge in LEDGER_GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in look.values.get(gauge.name, {}).items():
                family.add_metric(labels, value)
            yield family


ledger_look: Final = LedgerLook()
REGISTRY.register(ledger_look)
ProcessCollector(registry=REGISTRY)


def bounded(values: Iterable[tuple[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    """Add up values whose first two labels are namespace and task, within the bound."""
    total: dict[tuple[str, ...], float] = {}
    for (namespace, task, *rest), value in values:
        labels = (*task_labels(namespace, task), *rest)
        total[labels] = total.get(labels, 0) + value
    return total


@dataclass(frozen=True, slots=True)
class Description:
    """A metric as the reference shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def describe() -> list[Description]:
    """Return every metric, in the order of this module."""
    found = []
    for metric in (value for value in globals().values() if isinstance(value, Counter | Histogram | Gauge)):
        name = metric._name + ("_total" if isinstance(metric, Counter) else "")  # noqa: SLF001 - no other way to ask
        found.append(Description(name, metric._type, tuple(metric._labelnames), metric._documentation))  # noqa: SLF001
    return found + [Description(gauge.name, "gauge of the leader", gauge.labels, gauge.help) for gauge in LEDGER_GAUGES]
