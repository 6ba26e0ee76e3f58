"""The Run resource: a handle on one run. Its status is a projection of the ledger; nothing is decided from it."""

from typing import Annotated, Any

from pydantic import AwareDatetime, ConfigDict, Field
from pydantic.config import JsonDict

from windlass_operator.resources.base import Duration, FreeForm, KubeModel, Message, ObjectName, Word, rule, validations
from windlass_operator.resources.conditions import Condition


def _fixed(field: str, *, optional: bool) -> JsonDict:
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        # Whether it is there must not change either, and comparing what is absent would be an error.
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    message = f"{field} of a Run cannot be changed. Create another Run; to stop this one, set cancel to true."
    return rule(same, message, at=f".{field}")


Tag = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A word of a user's own; no control characters, which a terminal would obey and Postgres partly refuses."""

IdempotencyKey = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A word by which callers say that they mean the same run."""

TaskVersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class TaskRef(KubeModel):
    """Which Task to run."""

    name: ObjectName
    """Name of a Task in the same namespace. Task and Run may be applied in any order: a Run whose Task is missing
    waits for it, with the reason TaskNotFound, for ten minutes."""
    version: TaskVersionNumber | None = None
    """Run this version of the Task, as shown in its status.version, instead of the current one."""


class RunSpec(KubeModel):
    """What was asked for. It cannot be changed, except for cancel."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            _fixed("taskRef", optional=False),
            _fixed("tags", optional=True),
            _fixed("traceparent", optional=True),
            _fixed("idempotencyKey", optional=True),
            _fixed("delay", optional=True),
            _fixed("startAt", optional=True),
            _fixed("queueTTL", optional=True),
            rule(
                "!oldSelf.cancel || self.cancel",
                "A cancellation cannot be taken back. Create another Run.",
                at=".cancel",
            ),
        )
    )

    task_ref: TaskRef
    """Which Task to run."""
    payload: FreeForm = None
    """The argument of the task: any JSON, at most 64 KiB here; through the API, 8 MiB. It is checked against the
    Task's payloadSchema. Not for secrets: everyone who may read the Run can read it."""
    cancel: bool = False
    """Set to true to stop the run: your code gets ten seconds to clean up, then it is killed. Cannot be taken
    back."""
    tags: Annotated[list[Tag], Field(max_length=10)] = Field(
        default_factory=list, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Words of your own to find the run by: at most 10, of at most 128 characters."""
    idempotency_key: IdempotencyKey | None = None
    """Says which runs of the Task are meant to be the same one. A Run whose key stands for a run that has not failed
    starts nothing: it shows that run, with the reason Deduplicated, and deleting it stops nothing as long as another
    Run shows the run. A key is kept for 30 days; a run that ends as Failed, TimedOut or Cancelled sets it free."""
    delay: Duration | None = None
    """Start no earlier than this long after the run was accepted, for example 10m."""
    start_at: AwareDatetime | None = None
    """Start no earlier than this time, for example 2026-11-21T07:30:00Z. One that has passed is now. With a
    delay too, the later of the two counts."""
    queue_ttl: Duration | None = Field(None, alias="queueTTL")
    """If no attempt has begun this long after the run might have started, it ends as Expired instead: for work that is
    worth nothing later. Default: it waits for as long as it takes."""
    traceparent: str | None = Field(None, max_length=55, pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
    """W3C trace context of whoever asks for the run, so that the run becomes a part of that trace."""

    def asked_for(self) -> dict[str, Any]:
        """Return what makes two specs ask for the same: all but ``cancel``, and no defaults.

        With defaults in it, a release that adds a field would take every Run for a changed one.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"cancel"})


class Failures(KubeModel):
    """Failed attempts, by who has to answer for them."""

    user: int = Field(0, ge=0)
    """Failures of your code. These count against maxAttempts."""
    infra: int = Field(0, ge=0)
    """Failures of the platform: a lost node, an evicted or killed pod, a runner that fell silent. They have a budget
    of their own."""


class StepCounts(KubeModel):
    """Steps by state."""

    succeeded: int = Field(0, ge=0)
    """Finished steps. They are never run again."""
    failed: int = Field(0, ge=0)
    """Steps whose last try failed."""
    running: int = Field(0, ge=0)
    """Steps that are under way."""
    waiting: int = Field(0, ge=0)
    """Durable waits that are not over."""


class BlobRef(KubeModel):
    """A value that is too large to stand here."""

    sha256: str = Field(max_length=64, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of its JSON text."""
    size: int = Field(ge=0)
    """Bytes of its JSON text."""


class RunError(KubeModel):
    """The last failure."""

    type: Word
    """Name of the exception's class, or a reason such as OutOfMemory."""
    message: Message = ""
    """What it said."""
    failure_class: Word = Field(alias="class")
    """Who has to answer for it: user (your code; retried), permanent (your code; not retried), timeout, infra (the
    platform), config (image, Secret, scheduling, missing Task)."""


class RunStatus(KubeModel):
    """Where the run stands. Written by the operator only: a projection of the ledger, behind it by a moment."""

    run_id: Word | None = None
    """Id of the run in the ledger, by which the API and the command line know it."""
    # No list of allowed values: a CRD that an upgrade kept must not refuse a state that the new release knows.
    state: Word | None = None
    """Queued, Running, Waiting, Suspended, Cancelling, Compensating, and at the end Succeeded, Failed, TimedOut,
    Cancelled or Expired. For people and columns; programs wait for the conditions."""
    reason: Word | None = None
    """Why the run is not running, or why it ended as it did, in one word. The reference says what to do for each."""
    message: Message | None = None
    """The same in a sentence, with what to do next."""
    attempt: int | None = Field(None, ge=0)
    """Attempts so far, of any outcome."""
    max_attempts: int | None = Field(None, ge=1)
    """How many failures of your code end the run: the Task's retry.maxAttempts. Lost nodes do not count, so attempt
    may exceed it."""
    failures: Failures | None = None
    """Failed attempts, by who has to answer for them."""
    next_attempt_at: AwareDatetime | None = None
    """When the next attempt may start, while the run waits after a failure."""
    steps: StepCounts | None = None
    """Steps by state."""
    current_step: Word | None = None
    """Key of the step that began last and is under way."""
    protected: bool | None = None
    """Its pod carries `windlass.dev/do-not-disrupt`, or is about to: a step with `protect=True` runs."""
    result: FreeForm = None
    """What the task returned, if it is at most 64 KiB of JSON."""
    result_ref: BlobRef | None = None
    """Where the result is larger: its hash and size. Read it through the API."""
    error: RunError | None = None
    """The last failure."""
    version: int | None = Field(None, ge=1)
    """Version of the Task that this run uses."""
    pod_name: Word | None = None
    """Pod of the current or last attempt."""
    started_at: AwareDatetime | None = None
    """When the first attempt began."""
    finished_at: AwareDatetime | None = None
    """When the run reached its final state."""
    duration: Word | None = None
    """From the start of the first attempt to the end."""
    trace_id: Word | None = None
    """Trace that the run is a part of."""
    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Finished: the run has ended, in whatever way. Succeeded: it has ended well. Wait for one of them with
    kubectl wait --for=condition=Succeeded."""
