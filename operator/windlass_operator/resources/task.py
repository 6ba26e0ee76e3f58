"""The Task resource: what to run, and how."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from windlass.durations import parse_duration
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.resources.base import (
    Duration,
    FieldError,
    FreeFormObject,
    KubeModel,
    ObjectName,
    Quantity,
    rule,
    validations,
)
from windlass_operator.resources.conditions import Condition

SOURCE_LIMIT = 64 * 1024
"""Characters of an inline source. It is in every claim of the Task, and etcd holds it."""

_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"


class RetrySpec(KubeModel):
    """How often and how fast failures of your code are tried again.

    A failure of the platform (a lost node, an evicted pod) has a budget of its own and uses none of these attempts.
    """

    model_config = ConfigDict(
        json_schema_extra=validations(
            # CEL's duration() knows no days, so those are left to the operator, which says so in Ready.
            rule(
                "self.minDelay.contains('d') || self.maxDelay.contains('d')"
                " || duration(self.minDelay) <= duration(self.maxDelay)",
                "minDelay must not be longer than maxDelay. Raise maxDelay or lower minDelay.",
                at=".minDelay",
            )
        )
    )

    max_attempts: int = Field(3, ge=1, le=1000)
    """Attempts in all, the first included: 1 means no retry. Only failures of your code count: exceptions, a
    container out of memory, attemptTimeout. A PermanentError ends the run at once, whatever this says."""
    min_delay: Duration = "1s"
    """Pause after the first failure (at most, with full jitter). Durations look like 500ms, 30s, 1h30m, 2d."""
    factor: float = Field(2, ge=1, le=100)
    """By how much the pause grows with each further failure: with minDelay 1s and factor 2, 1s, 2s, 4s, 8s …"""
    max_delay: Duration = "60s"
    """The pause never grows beyond this."""
    jitter: Literal["full", "none"] = "full"
    """full: each pause is drawn evenly between nothing and its full length, so that many runs that failed together do
    not come back together. none: always the full length."""

    @model_validator(mode="after")
    def _ordered(self) -> "RetrySpec":
        if parse_duration(self.min_delay) > parse_duration(self.max_delay):
            raise ValueError(f"minDelay {self.min_delay} is longer than maxDelay {self.max_delay}. Raise maxDelay.")
        return self

    def policy(self) -> RetryPolicy:
        """Return the domain's retry policy."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            min_delay=parse_duration(self.min_delay),
            factor=self.factor,
            max_delay=parse_duration(self.max_delay),
            jitter=self.jitter,
        )


Argument = Annotated[str, Field(max_length=32768)]
"""One argument of a command."""


class SourceSpec(KubeModel):
    """Where the code comes from, if it is not in the image."""

    inline: str = Field(min_length=1, max_length=SOURCE_LIMIT)
    """Text of the Python module that the entrypoint names, at most 64 KiB. It may import whatever the image has. Good
    for small tasks and for trying things; build an image for more."""


class KeyRef(KubeModel):
    """A key of an object in the Task's namespace."""

    name: ObjectName
    """Name of the object."""
    key: str = Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
    """Key within the object."""
    optional: bool | None = None
    """Whether the variable is left out when the object or the key is missing. Otherwise the run waits, with the
    reason SecretNotFound, until startTimeout."""


class EnvVarSource(KubeModel):
    """Where the value of a variable comes from. Set exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule(
                "has(self.secretKeyRef) != has(self.configMapKeyRef)",
                "Set exactly one of secretKeyRef and configMapKeyRef.",
            )
        )
    )

    secret_key_ref: KeyRef | None = None
    """A key of a Secret. Its value is taken out of the run's logs."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""


class EnvVar(KubeModel):
    """One environment variable."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule("!(has(self.value) && has(self.valueFrom))", "Set value or valueFrom, not both."),
            rule(
                "!self.name.startsWith('WINDLASS_') && !self.name.startsWith('POD_')",
                "Names that begin with WINDLASS_ or POD_ belong to the runner. Choose another name.",
                at=".name",
            ),
        )
    )

    name: str = Field(min_length=1, max_length=256, pattern=rf"^{_IDENTIFIER}$")
    """Name of the variable. Names that begin with WINDLASS_ or POD_ belong to the runner."""
    value: str | None = Field(None, max_length=32768)
    """The value, as text. Never a secret: everyone who may read the Task can read it."""
    value_from: EnvVarSource | None = None
    """Take the value from a Secret or ConfigMap of the same namespace."""


class Resources(KubeModel):
    """CPU and memory of the pod's main container, as in any pod."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What the scheduler reserves, for example cpu 100m, memory 64Mi."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What the container may not exceed. Beyond the memory limit the attempt fails with the reason OutOfMemory."""


class TaskSpec(KubeModel):
    """What to run, and how. Runs that are under way keep the version of the Task that they began with."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule(
                "!has(self.env) || self.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef)"
                " || e.valueFrom.secretKeyRef.name != 'windlass-runner')",
                "The Secret windlass-runner belongs to the runner. Keep your values in another Secret.",
                at=".env",
            ),
            rule(
                "has(self.entrypoint) != has(self.command)",
                "Set exactly one of entrypoint (a Python function) and command (a program in any image).",
            ),
            rule(
                "!has(self.args) || has(self.command)",
                "args go with command. Give a Python function its values in the payload.",
                at=".args",
            ),
            rule(
                "!has(self.source) || has(self.entrypoint)",
                "source goes with entrypoint. Put what a command runs into its image, or into command itself.",
                at=".source",
            ),
            rule(
                "(self.isolation == 'Pool') == has(self.pool)",
                "isolation: Pool and pool go together. Name the WorkerPool in pool, or leave both out.",
                at=".pool",
            ),
            rule(
                "self.isolation != 'Pool' || !has(self.command)",
                "A task with command needs pods of its own, in its own image. Leave out isolation and pool.",
                at=".command",
            ),
            rule(
                "self.isolation != 'Pool' || !has(self.resources)"
                " || !(has(self.resources.requests) || has(self.resources.limits))",
                "The pods of a pool are shared by its Tasks. Set resources of the WorkerPool.",
                at=".resources",
            ),
            rule(
                "self.isolation != 'Pool' || !has(self.podTemplate)",
                "The pods of a pool are shared by its Tasks. Set podTemplate of the WorkerPool.",
                at=".podTemplate",
            ),
            rule(
                "self.isolation != 'Pool' || !has(self.standby) || self.standby == 0",
                "standby is for pods of a Task's own. Set standby of the WorkerPool, which counts free slots.",
                at=".standby",
            ),
        )
    )

    image: str | None = Field(None, min_length=1, max_length=512)
    """Image to run: with entrypoint, any image built on the runner image; with command, any image at all whose user is
    not root. Default: the runner image of the installation. Name a tag or a digest that does not move; runners do not
    ask the registry again for an image that the node has."""
    entrypoint: str | None = Field(
        None, max_length=512, pattern=rf"^{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}(\.{_IDENTIFIER})*$"
    )
    """The Python function to run, as module:function, for example order:process_order. Set this or command."""
    command: Annotated[list[Argument], Field(min_length=1, max_length=256)] | None = None
    """The program to run, for a task in any language and any image: program and arguments, for example [sh, -c,
    'jq .orderId "$WINDLASS_PAYLOAD_FILE" > "$WINDLASS_RESULT_FILE"']. It replaces the image's ENTRYPOINT. Exit code 0:
    the run has succeeded, and its result is the JSON in WINDLASS_RESULT_FILE, or null without that file. Any other
    code or a signal: the attempt has failed and is retried as retry says. The payload is in WINDLASS_PAYLOAD_FILE;
    durable steps are under WINDLASS_URL (docs/how-to/container-tasks.md). What it prints is the run's log. Cancelling
    and timeouts send SIGTERM to its process group, and SIGKILL after 10s."""
    args: Annotated[list[Argument], Field(max_length=256)] | None = None
    """More arguments after command, as in any container; the image's CMD is not used."""
    source: SourceSpec | None = None
    """Code that is not in the image. For entrypoint only."""
    retry: RetrySpec = Field(default_factory=RetrySpec, json_schema_extra={"default": RetrySpec().to_object()})
    """How often and how fast failures of your code are tried again: an exception, a container out of memory, an attempt
    that took too long. A PermanentError is not tried again. Failures of the platform (a lost node, an evicted pod, a
    runner that fell silent) have a budget of their own and use none of these attempts. Finished steps are never
    repeated, whatever fails. Default: 3 attempts, with pauses that double from 1s up to 60s."""
    timeout: Duration | None = None
    """Running time over all attempts, pauses and durable waits not counted. When it is used up the run ends as
    TimedOut. The code can ask for more with extend_timeout. Default: none."""
    attempt_timeout: Duration | None = None
    """Running time of one attempt. Reaching it fails the attempt, which is retried like any failure. Default:
    none."""
    total_timeout: Duration | None = None
    """Time from acceptance to the end: queueing, pauses, durable waits and suspension included. When it is over the run
    ends as TimedOut, whatever it does. Nothing extends it. Default: none."""
    start_timeout: Duration = "10m"
    """How long a problem of configuration (an image or Secret that does not exist, a pod that fits on no node, a
    missing Task) may hold a run before it fails. Until then the run is Queued and shows the reason, and goes on when
    it is mended."""
    queue: ObjectName | None = None
    """The Queue in which runs wait for their turn, shared with the other Tasks that name it. Its limits hold for all of
    them together. Until there is a Queue of that name in the namespace, the runs wait, with the reason QueueNotFound.
    Default: a queue of the Task's own, with the Task's name; it limits nothing until you create that Queue."""
    priority: int = Field(0, ge=-31_536_000, le=31_536_000)
    """Seconds of head start before the other runs of the queue: a run with 60 goes before one that was accepted 60
    seconds earlier. Nothing waits for ever, as it might with ranks."""
    payload_schema: FreeFormObject | None = None
    """JSON Schema that the payload of each run must meet, checked before anything starts. Default: any JSON."""
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Environment variables of your code."""
    resources: Resources = Field(default_factory=Resources)
    """CPU and memory of each pod. A memory limit is wise: without one, a leak ends in the eviction of others."""
    pod_template: FreeFormObject | None = None
    """More for the pod, in the form of a pod template, merged over ours. In metadata: labels and annotations. In
    spec: nodeSelector, tolerations, affinity, topologySpreadConstraints, priorityClassName, preemptionPolicy,
    runtimeClassName, schedulerName, imagePullSecrets, serviceAccountName, hostAliases, dnsPolicy, dnsConfig, volumes,
    a securityContext that is no weaker, and one container named runner (main for a task with command) with
    volumeMounts, ports, workingDir, resources or imagePullPolicy. Anything else would make the pod unsafe or not ours;
    runs then show the reason PodTemplateInvalid."""
    isolation: Literal["Pod", "Pool"] = "Pod"
    """Pod: each attempt runs in a pod of its own. Pool: in a process of its own, in a pod of the WorkerPool that pool
    names; such pods are up already, and take one run after the other, of all Tasks that name the pool."""
    pool: ObjectName | None = None
    """The WorkerPool in whose pods the runs go, with isolation Pool. It gives the pods their resources and podTemplate;
    image and env are the Task's. Until there is a WorkerPool of that name in the namespace, the runs wait, with the
    reason PoolNotFound."""
    standby: int = Field(0, ge=0, le=100)
    """Pods to keep ready: started ahead of any run, with the code imported, each for one attempt. A run then starts
    within milliseconds in a pod of its own, and another pod takes the place of the one that it took. Each of them holds
    its CPU and memory requests while it waits. Default: none; a pod is started for each attempt."""
    ttl_after_finished: Duration = "1h"
    """How long a finished Run resource stays before it is deleted. The run itself, with its steps, logs and result,
    stays in the ledger and can be read through the API and the command line."""

    @model_validator(mode="after")
    def _one_way_to_run(self) -> "TaskSpec":
        if (self.entrypoint is None) == (self.command is None):
            raise ValueError("set exactly one of entrypoint (a Python function) and command (a program in any image)")
        if self.command is None and self.args is not None:
            raise ValueError("args go with command; give a Python function its values in the payload")
        if self.entrypoint is None and self.source is not None:
            raise ValueError(
                "source goes with entrypoint; put what a command runs into its image, or into command itself"
            )
        return self

    @model_validator(mode="after")
    def _at_home_in_its_pool(self) -> "TaskSpec":
        if (self.isolation == "Pool") != (self.pool is not None):
            text = "isolation: Pool and pool go together. Name the WorkerPool in pool, or leave both out."
            raise FieldError("isolation" if self.pool is None else "pool", text)
        if self.pool is None:
            return self
        if self.command is not None:
            raise FieldError("command", "A task with command needs pods of its own. Leave out isolation and pool.")
        for field, value in (("resources", self.resources.to_object()), ("podTemplate", self.pod_template)):
            if value:
                raise FieldError(
                    field, f"The pods of a pool are shared by its Tasks. Set {field} of the WorkerPool instead."
                )
        if self.standby:
            raise FieldError("standby", "It is for pods of a Task's own. Set standby of the WorkerPool instead.")
        return self

    @property
    def timeout_duration(self) -> timedelta | None:
        """``timeout`` as a duration."""
        return None if self.timeout is None else parse_duration(self.timeout)

    @property
    def attempt_timeout_duration(self) -> timedelta | None:
        """``attemptTimeout`` as a duration."""
        return None if self.attempt_timeout is None else parse_duration(self.attempt_timeout)

    @property
    def total_timeout_duration(self) -> timedelta | None:
        """``totalTimeout`` as a duration."""
        return None if self.total_timeout is None else parse_duration(self.total_timeout)

    @property
    def start_timeout_duration(self) -> timedelta:
        """``startTimeout`` as a duration."""
        return parse_duration(self.start_timeout)

    @property
    def ttl_after_finished_duration(self) -> timedelta:
        """``ttlAfterFinished`` as a duration."""
        return parse_duration(self.ttl_after_finished)

    def env_objects(self) -> list[dict[str, Any]]:
        """Return the variables as a pod's container has them."""
        return [entry.to_object() for entry in self.env]


class TaskStatus(KubeModel):
    """What Windlass makes of the Task. Written by the operator only."""

    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this status is about."""
    version: int | None = Field(None, ge=1)
    """Number of the current version. Each change of the spec that runs depend on makes a new one."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Ready: runs of this Task can start. Stalled: they cannot, and only a change of the spec helps."""
