"""What the public routes take and answer, as models: the OpenAPI document is made from them.

Answers are not built through these models (a list would pay for it twice); a test holds every answer to them.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic.alias_generators import to_camel

from windlass_operator.api.queries import Time
from windlass_operator.domain.run_state import RunState
from windlass_operator.resources.run import BlobRef, IdempotencyKey, RunStatus, Tag, TaskVersionNumber

Outcome = Literal[
    "Succeeded", "Failed", "TimedOut", "Cancelled", "Waiting", "Suspended", "Compensated", "Lost", "Released"
]
"""How an attempt ended."""
_RESOURCE_ONLY = frozenset({"run_id", "observed_generation", "conditions"})
"""What a Run's status says of its resource."""


Delay = Annotated[
    str,
    Field(
        pattern=r"^([0-9]{1,3}d)?([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}(\.[0-9]{1,3})?s)?([0-9]{1,6}ms)?$",
        min_length=2,
        max_length=32,
        examples=["10m"],
    ),
]
"""A duration, its units from the largest to the smallest. Whatever has this form is one of less than three years."""


class View(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(alias_generator=to_camel, use_attribute_docstrings=True, populate_by_name=True)


class TriggerRequest(BaseModel):
    """What a run is asked to do. All fields are optional."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    payload: Any = None
    """The argument of the task: any JSON, checked against the Task's payloadSchema. The whole body may have 8 MiB."""
    tags: Annotated[list[Tag], Field(max_length=10, json_schema_extra={"uniqueItems": True})] = Field(
        default_factory=list
    )
    """Words of your own to find the run by."""
    version: TaskVersionNumber | None = None
    """A version of the Task; the current one by default."""
    idempotency_key: IdempotencyKey | None = Field(None, alias="idempotencyKey")
    """A word for this run. If the Task has a run of the last 30 days with the same one that has not failed, it is
    the answer (200, `deduplicated`), whatever its payload is: repeat a request as often as you like."""

    delay: Delay | None = None
    """Start no earlier than this long from now, for example `10m`."""
    start_at: Time | None = Field(None, alias="startAt")
    """Start no earlier than this time, and no earlier than `delay` says."""
    queue_ttl: Delay | None = Field(None, alias="queueTTL")
    """End as Expired if no attempt has begun this long after the run might have started."""

    @field_validator("version", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """JSON has one kind of number, and its schema takes 3.0 for an integer."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @field_validator("tags")
    @classmethod
    def _unique(cls, tags: list[str]) -> list[str]:
        if len(set(tags)) != len(tags):
            raise ValueError("a tag stands twice")
        return tags


class ResumeRequest(BaseModel):
    """With what a suspended run goes on."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    version: TaskVersionNumber | None = None
    """A version of the Task; the current one by default."""

    @field_validator("version", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """As for a trigger."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class BatchRequest(BaseModel):
    """Runs of one Task. All are started, or none is."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    items: Annotated[list[TriggerRequest], Field(min_length=1, max_length=1000)]
    """Each as for a single trigger. The whole body may have 8 MiB."""


class BatchItem(View):
    """A run of a batch."""

    id: UUID
    """The run's id."""
    deduplicated: bool | None = None
    """This run was there before."""


class BatchAnswer(View):
    """The runs of a batch."""

    items: list[BatchItem]


class _RunHead(View):
    id: UUID
    """The run's id."""
    namespace: str
    task: str
    """Name of the Task."""
    name: str | None
    """Name of the Run resource, if there is one."""
    tags: list[str]
    created_at: AwareDatetime
    """When the run was accepted."""
    payload: Any = None
    """Its argument, if it has at most 64 KiB of JSON. Not in lists."""
    idempotency_key: str | None = None
    """What it was asked for with."""
    deduplicated: bool | None = None
    """The answer to a trigger: this run was there before."""
    parent_id: UUID | None = None
    """The run whose code has started this one."""
    root_id: UUID | None = None
    """The run at the top, which nobody's code has started."""
    payload_ref: BlobRef | None = None
    """Where the payload is larger: its hash and size. Read it from `/payload`."""


Run = create_model(
    "Run",
    __base__=_RunHead,
    __doc__="A run as the API shows it. Values that are absent are left out.",
    **{name: (info.annotation, info) for name, info in RunStatus.model_fields.items() if name not in _RESOURCE_ONLY},  # type: ignore[call-overload]  # names of fields that exist
)


class RunPage(View):
    """A page of runs."""

    items: list[Run]
    next_cursor: str | None
    """Give it back as `cursor` for the next page; null at the end."""


class TreeNode(View):
    """A run in a tree."""

    id: UUID
    task: str
    name: str | None
    parent_id: UUID | None
    depth: int
    """Levels below the run that nobody's code has started."""
    detached: bool
    """It goes on when its parent is cancelled."""
    state: RunState
    reason: str | None
    message: str | None
    attempt: int
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None


class Tree(View):
    """A run and those that it has led to, parents before their children."""

    items: list[TreeNode]
    truncated: bool
    """There are more."""


class StepError(View):
    """Why a step did not succeed."""

    type: str
    message: str
    class_: Literal["user", "permanent", "timeout", "infra"] = Field("user", alias="class")
    traceback: str | None = None
    reason: str | None = None
    step: str | None = None


class Step(View):
    """A step of a run."""

    key: str
    """Path of its branch, name and count within the branch."""
    name: str
    args_hash: str
    kind: Literal["step", "sleep", "event", "token", "approval", "run"]
    """What it is: a step of the code, or a durable wait of that kind."""
    state: Literal["running", "waiting", "succeeded", "failed"]
    result: Any = None
    """What it returned, if it has at most 64 KiB of JSON."""
    result_ref: BlobRef | None = None
    error: StepError | None = None
    place: int | None = None
    """The how-manieth call of its branch it was, from 1."""
    code_id: str | None = None
    """Hash of the code that saved it."""
    replaces: bool = False
    """It ran again, because the task's `migrate` dropped an earlier result."""
    run_id: UUID | None = None
    """The run that it has started."""
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    attempt: int
    """The attempt that ran it last."""
    tries: int
    """How often that attempt has called its body."""
    protected: bool = False
    """It runs, and cluster tools are asked to leave its pod alone meanwhile: `@step(protect=True)`."""
    durable: bool = False
    """It failed, and later attempts of the run fail here in the same way: the code may have gone another way for it."""


class StepPage(View):
    """A page of steps, in the order in which they were first saved."""

    items: list[Step]
    next_cursor: int | None
    """Give it back as `after`; null at the end."""


class Pod(View):
    """What is known of an attempt's pod."""

    name: str
    node: str | None
    reason: str | None = None
    """Why it ended, if it did not end by itself."""
    message: str | None = None
    last_state: dict[str, Any] | None = None
    """What Kubernetes told of it at its end: phase, conditions, the container's state, the image's digest, the last
    events. Kept when the pod is deleted. The last lines of its log are at `/attempts/{number}/pod`."""


class Attempt(View):
    """An attempt of a run."""

    number: int
    outcome: Outcome | None
    """Null while it is open. Lost: its pod or its lease; Released: its pod had to stop and gave the run back; Waiting:
    the code waits, and needs no pod for that; Suspended: its code does not fit history; Compensated: it undid what was
    left of a run that did not succeed."""
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    error: StepError | None
    memory_bytes: int | None
    """What the code used at the last heartbeat."""
    pod: Pod | None


class AttemptPage(View):
    """All attempts of a run, in order."""

    items: list[Attempt]


class Event(View):
    """Something that happened to a run."""

    n: int
    at: AwareDatetime
    type: str
    attempt: int | None
    reason: str | None
    message: str | None


class EventPage(View):
    """A page of events, in order."""

    items: list[Event]
    next_cursor: int | None
    """Give it back as `after`; null at the end."""


class LogLine(View):
    """A line of output."""

    attempt: int
    seq: int
    at: AwareDatetime
    stream: Literal["stdout", "stderr", "system"]
    text: str
    step: str | None


class LogPage(View):
    """A page of the log of all attempts, in order."""

    items: list[LogLine]
    next_cursor: str
    """Give it back as `after`; there always is one."""
    finished: bool
    """No more lines will come."""


class Error(View):
    """Why a request was refused."""

    code: str = Field(examples=["PayloadInvalid"])
    """Stable, for programs."""
    message: str = Field(examples=["payload.orderId: 'seven' is not of type 'integer'"])
    """What is wrong, where, and what to do next, for people."""
    field: str | None = Field(None, examples=["payload.orderId"])
    """Path of the offending field or name of the parameter."""
    hint: str | None = Field(None, examples=["The Task's spec.payloadSchema says what it takes."])
    """What to do next, where the message does not say it."""
