"""The WorkerPool resource: pods that stay, and take one run after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from windlass.durations import parse_duration
from windlass_operator.resources.base import Duration, FieldError, FreeFormObject, KubeModel, rule, validations
from windlass_operator.resources.conditions import Condition, pool_conditions
from windlass_operator.resources.task import Resources


class ReuseSpec(KubeModel):
    """How long one pod goes on. Then it ends when its runs have ended, and another takes its place."""

    max_age: Duration = "1h"
    """How long a pod takes runs, at most. What user code leaves behind in memory goes with it."""
    max_runs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many runs a pod takes, at most. Default: any number."""


class WorkerPoolSpec(KubeModel):
    """How many pods there are, and what they are made of. Tasks join with isolation Pool and the pool's name."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas. Raise maxReplicas or lower minReplicas.",
                at=".minReplicas",
            ),
            rule(
                "self.execution == 'InProcess' || !has(self.maxRunsPerProcess) || self.maxRunsPerProcess == 1",
                "With execution Fork each run has a process of its own: maxRunsPerProcess is 1. Remove it.",
                at=".maxRunsPerProcess",
            ),
        )
    )

    min_replicas: int = Field(0, ge=0, le=10_000)
    """Pods that are there although nothing runs, divided over the images of the Tasks that name the pool. 0: the pool
    goes down to nothing, and the first run after that waits for a pod."""
    max_replicas: int = Field(10, ge=1, le=10_000)
    """Pods at most. While the pool's template changes, a quarter more, and one at least, so that new ones can come
    before old ones go."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Exactly so many pods. Set it, with kubectl scale or an autoscaler (HPA, KEDA), and Windlass no longer decides:
    minReplicas, maxReplicas and standby have no effect. Default: Windlass decides."""
    standby: int = Field(0, ge=0, le=10_000)
    """Slots to keep free beyond what the runs need now, so that a new run finds a pod that is up."""
    slots: int = Field(1, ge=1, le=100)
    """Runs that one pod has at once."""
    execution: Literal["Fork", "InProcess"] = "Fork"
    """Fork: each run has a process of its own, and what it leaves in memory ends with it. InProcess: the runs of a pod
    share one process, which costs a fraction: async def tasks share an event loop, others have a thread each. They
    share globals too, and whatever ends the process ends them all."""
    max_runs_per_process: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """After so many runs a process finishes those that it has, and is replaced. 0: never. Default: 1 with Fork, 0 with
    InProcess."""
    scale_down_after: Duration = "5m"
    """How long a pod has nothing to do before it goes."""
    reuse: ReuseSpec = Field(default_factory=ReuseSpec, json_schema_extra={"default": ReuseSpec().to_object()})
    """How long one pod goes on. Default: for an hour."""
    resources: Resources = Field(default_factory=Resources)
    """CPU and memory of each pod, for all of its slots together."""
    pod_template: FreeFormObject | None = None
    """More for the pods, as podTemplate of a Task. A change of it, or of resources, slots, reuse or execution,
    brings new pods; the old ones go when their runs have ended."""

    @model_validator(mode="after")
    def _ordered(self) -> "WorkerPoolSpec":
        if self.min_replicas > self.max_replicas:
            text = (
                f"{self.min_replicas} is more than maxReplicas, {self.max_replicas}. Raise maxReplicas or lower this."
            )
            raise FieldError("minReplicas", text)
        if self.execution == "Fork" and self.max_runs_per_process not in (None, 1):
            raise FieldError(
                "maxRunsPerProcess", "With execution Fork each run has a process of its own: this is 1. Remove it."
            )
        return self

    def template(self) -> dict[str, Any]:
        """Return what the pods are made of besides the Task's part, as JSON values."""
        template = {
            "slots": self.slots,
            "resources": self.resources.to_object(),
            "podTemplate": self.pod_template or {},
            "maxAgeSeconds": parse_duration(self.reuse.max_age).total_seconds(),
            "maxRuns": self.reuse.max_runs,
        }
        # Only what differs from what there was before these fields: an upgrade must not replace every pod.
        if self.execution == "InProcess":
            template["execution"] = self.execution
            template["maxRunsPerProcess"] = self.max_runs_per_process or 0
        return template


class WorkerPoolStatus(KubeModel):
    """How many pods there are, and what they do. Written by the operator only, at most once a second."""

    replicas: int | None = Field(None, ge=0)
    """Pods that have not ended, those included that only finish their runs."""
    ready: int | None = Field(None, ge=0)
    """Pods that take runs."""
    busy: int | None = Field(None, ge=0)
    """Pods that have a run."""
    idle: int | None = Field(None, ge=0)
    """Pods that take runs and have none."""
    desired: int | None = Field(None, ge=0)
    """Pods that the pool should have now."""
    running: int | None = Field(None, ge=0)
    """Runs in its pods."""
    queued: int | None = Field(None, ge=0)
    """Runs that wait for a place in its pods, or for their queue."""
    selector: str | None = Field(None, max_length=512)
    """Finds its pods: for kubectl get pods -l, and for autoscalers."""
    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Ready: its fewest pods are up, and none of its pods fails. Stalled: the spec cannot be read, and the one before
    holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """What is counted of a pool; see :class:`WorkerPoolStatus`.

    Attributes:
        fewest: Pods that should at least be up.
        tasks: Whether a Task names the pool.
    """

    replicas: int
    ready: int
    busy: int
    idle: int
    desired: int
    running: int
    queued: int
    fewest: int
    tasks: bool


def status_of(
    counts: PoolCounts,
    *,
    selector: str,
    generation: int,
    now: datetime,
    invalid: tuple[str, str] | None = None,
    failing: tuple[str, str] | None = None,
    current: Sequence[Condition] = (),
) -> dict[str, Any]:
    """Return the status of a WorkerPool.

    Args:
        counts: Its pods and runs.
        selector: Of its pods.
        generation: ``metadata.generation`` that was acted on.
        now: When this is decided, aware.
        invalid: Reason and message, if the spec cannot be read.
        failing: Reason and message, if its pods do not start.
        current: The conditions that the resource shows now.
    """
    conditions = pool_conditions(
        invalid=invalid,
        failing=failing,
        waits_for=max(0, counts.fewest - counts.ready),
        tasks=counts.tasks,
        generation=generation,
        now=now,
        current=current,
    )
    return WorkerPoolStatus(
        replicas=counts.replicas,
        ready=counts.ready,
        busy=counts.busy,
        idle=counts.idle,
        desired=counts.desired,
        running=counts.running,
        queued=counts.queued,
        selector=selector,
        observed_generation=generation,
        conditions=conditions,
    ).to_object()
