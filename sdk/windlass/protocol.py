"""The wire format between runners and the API (``/runtime/v1``): JSON over HTTP/1.1 keep-alive.

Both sides import this module, so a field has one meaning in one place. Every struct ignores fields that it does not
know: a runner of one release talks to an API of the next. JSON values of users travel as :class:`msgspec.Raw`, which
is never decoded between the user's process and the ledger.

Who calls what, with which credential:

==========================  =======================================================  ==============================
route                       purpose                                                  ``Authorization: Bearer``
==========================  =======================================================  ==============================
POST /runtime/v1/claim      take runs of the pod's key (long poll)                   the pod's credential
POST /runtime/v1/withdraw   hand back what a claim took, and take nothing more       the pod's credential
POST /runtime/v1/heartbeat  keep leases, learn of cancellation                       none; tokens are in the body
POST /runtime/v1/steps      save finished and running steps                          the attempt's token
GET  /runtime/v1/steps      finished steps after a cursor                            the attempt's token
GET  /runtime/v1/compensations what is left to undo of a run that will not succeed   the attempt's token
GET  /runtime/v1/protection whether the attempt's pod is protected                   the attempt's token
POST /runtime/v1/waits      begin durable waits, and learn which are over            the attempt's token
POST /runtime/v1/suspend    nothing but waits is left: end the attempt, keep the run the attempt's token
POST /runtime/v1/checkpoint save the one state of a long loop                        the attempt's token
POST /runtime/v1/extend     add running time to the timeouts                         the attempt's token
POST /runtime/v1/events     send an event                                            the attempt's token
POST /runtime/v1/tokens     make a token that somebody outside completes             the attempt's token
POST /runtime/v1/children   start runs, and perhaps wait for them                    the attempt's token
POST /runtime/v1/complete   the run has succeeded                                    the attempt's token
POST /runtime/v1/fail       the attempt has failed                                   the attempt's token
POST /runtime/v1/release    hand the run back without using an attempt               the attempt's token
POST /runtime/v1/ends       complete and fail many attempts of a pod                 the session; tokens in the body
POST /runtime/v1/logs       numbered log lines                                       the attempt's token
PUT  /runtime/v1/blobs/..   upload a value by its SHA-256                            the attempt's token
GET  /runtime/v1/blobs/..   download a value by its SHA-256                          the attempt's token
==========================  =======================================================  ==============================

An attempt's token is ``<attempt id>.<secret>``: the id finds the row, the hash of the secret stands in it.
Errors are :class:`ErrorBody` with the HTTP status. What a runner does with each is in :data:`AttemptClosed`.
"""

from typing import Annotated, Final, Literal

import msgspec

PREFIX: Final = "/runtime/v1"

INLINE_LIMIT: Final = 64 * 1024
"""Bytes of JSON up to which a payload, result or step value is kept in its row; larger values become blobs."""

BLOB_LIMIT: Final = 100 * 1024 * 1024
"""Bytes of the largest value, where an object store is configured."""

BLOB_LIMIT_WITHOUT_STORE: Final = 8 * 1024 * 1024
"""Bytes of the largest value where blobs are rows of the ledger."""

BODY_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of the largest request body, blobs excepted. Checked before parsing."""

STEPS_IN_CLAIM_LIMIT: Final = 1024 * 1024
"""Bytes of finished steps that ride along with a claim; the rest is paged."""

MAX_LOG_LINE: Final = 16 * 1024
"""Characters of one log line; the rest is cut with a marker."""

DEPTH: Final = 200
"""Levels of objects and arrays in a user's value. Readers give up at very different depths; none that we know here."""

DIGITS: Final = 300
"""Longest integer in a user's value. Longer ones are refused by some JSON readers and rounded to infinity by others."""

MOST_ENDS: Final = 200
"""Ends in one call."""

AttemptClosed: Final = "AttemptClosed"
"""Error code (HTTP 409): the attempt is no longer open. The runner stops the child and exits with 3."""

PodUnknown: Final = "PodUnknown"
"""Error code (HTTP 404): the operator has not recorded this pod's UID yet. The runner asks again shortly."""

ABSENT: Final = msgspec.Raw(b"")
"""No value. Always this object: it is by identity that an absent field is left out of a message."""

EVENT_NAME_MAX: Final = 200
"""Characters of the name of an event, and of its id."""

EVENT_NAME: Final = r"^[^\x00-\x1f\x7f]+$"
"""No control characters."""

TEN_YEARS: Final = 10 * 366 * 86_400_000
"""Milliseconds: the longest time in a message."""
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=TEN_YEARS)]
WholeMilliseconds = Annotated[int, msgspec.Meta(ge=0, le=TEN_YEARS)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Key = Annotated[str, msgspec.Meta(max_length=600)]
"""A name or key that people read and databases index: PostgreSQL's indexes take 2,700 bytes."""

Place = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
CodeId = Annotated[str, msgspec.Meta(max_length=64)]

LogStream = Literal["stdout", "stderr", "system"]
StepState = Literal["running", "waiting", "succeeded", "failed"]
StepKind = Literal["step", "sleep", "event", "token", "approval", "run"]
FailureClass = Literal["user", "permanent", "timeout", "infra"]


class Message(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """Base of every struct on the wire: camelCase names, defaults left out."""


class ErrorBody(Message):
    """What every refused request answers, here and in the public API."""

    code: str
    """Stable PascalCase code, for programs."""
    message: str
    """What is wrong, where, and what to do next, for people."""
    field: str | None = None
    """Path of the offending field, such as ``spec.payload.orderId``."""
    hint: str | None = None


_MAY_BE_ANOTHERS: Final = frozenset({401, 403, 404, 421})


def is_anothers(status: int, body: bytes) -> bool:
    """Return whether an answer is not the API's but of something on the way: a proxy, a mesh, another address's server.

    While a Service has no endpoint, or a mesh learns its routes, others answer that they know no such address or let
    nobody in. That says nothing about the request, so it is repeated, on another connection. What they refuse for its
    form or size they would refuse for ever: that is an answer.
    """
    if status not in _MAY_BE_ANOTHERS:
        return False
    try:
        msgspec.json.decode(body, type=ErrorBody)
    except msgspec.DecodeError:
        return True
    return False


class BlobRef(Message):
    """A value kept outside its row. Its key is project/run/sha256, so it never outlives or leaves its run."""

    sha256: Sha256
    """Lower-case hexadecimal digest of the JSON text."""
    size: Bytes
    """Bytes of the JSON text."""


class Restore(Message):
    """What an exception is made of, so that later attempts meet it again: JSON, nothing that runs when read."""

    class_: str = msgspec.field(name="class")
    """``module:qualified name`` of the exception's class, or of the nearest base that can be imported."""
    args: msgspec.Raw = msgspec.Raw(b"[]")
    """JSON list: its ``args``."""
    attributes: msgspec.Raw = msgspec.Raw(b"{}")
    """JSON object: its own attributes, those that have a JSON form."""
    exceptions: list["Failure"] = []
    """The members, if it is a group."""
    cause: "Failure | None" = None
    """What it was raised ``from``."""


class FailedRun(Message):
    """A run that ended without a result, as it looks to the run that waited for it."""

    run_id: str
    state: str
    """``Failed``, ``TimedOut`` or ``Cancelled``."""
    type: str
    """Of its last failure: the name of an exception's class, or a reason."""
    message: str
    failure_class: FailureClass | None = msgspec.field(default=None, name="class")


class Failure(Message):
    """Why a step or an attempt did not succeed."""

    type: str
    """Name of the exception's class, or a reason such as ``OutOfMemory``."""
    message: str
    failure_class: FailureClass = msgspec.field(default="user", name="class")
    traceback: str | None = None
    """Formatted traceback with the frames of Windlass itself removed; at most 32 KiB."""
    reason: str | None = None
    """A reason of the Run's status (``EntrypointImportFailed``, ``ResultNotSerializable`` …); ``type`` if absent."""
    step: str | None = None
    """Key of the step in which it happened."""
    restore: Restore | None = None
    """Of a durable failure: how the exception is made again. Only runners read it."""
    run: FailedRun | None = None
    """The run that was waited for in vain."""


class Step(Message):
    """One step of a run, as the runner saves it and as the API returns it."""

    key: Key
    """Path of the branch, name and count within the branch: ``charge``, ``charge#2``, ``0.1/fetch``."""
    name: Key
    args_hash: Key
    """Hash of the arguments; a replay that finds another hash diverges and never gets the saved value."""
    state: StepState
    result: msgspec.Raw = ABSENT
    """JSON of the returned value; empty when it is a blob or the step has not succeeded."""
    result_ref: BlobRef | None = None
    error: Failure | None = None
    compensation: msgspec.Raw = ABSENT
    """JSON of what undoes the step once it has succeeded; for the SDK alone to read. Never part of history."""
    kind: StepKind = "step"
    run_id: str | None = None
    """The run that this step has started."""
    durable: bool = False
    """A failure that belongs to history: later attempts fail here in the same way instead of running the step again."""
    place: Place | None = None
    """The how-manieth key of its branch it has, from 1. None: not known, and code is not held to it."""
    code_id: CodeId | None = None
    """Hash of the code that saved it."""
    replaces: bool = False
    """It ran again because ``migrate`` of its task dropped the result that history had: this one takes its place."""
    protect: bool = False
    """Nothing must remove its pod while it runs. Said when it begins, and again when it ends."""
    age_ms: Milliseconds = 0.0
    """Milliseconds between the step's start and the moment this message was sent (durations, not clocks: only the
    database's clock decides)."""
    duration_ms: Milliseconds | None = None
    """Milliseconds the body ran; absent while it runs."""
    tries: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    """How often the body was called by the attempt that ran the step last, this time included."""


class Protection(Message):
    """What the cluster knows of an attempt's protected steps."""

    on_pod: bool
    """The pod carries the annotations that keep it, or there is nobody who would read them."""


class Compensation(Message):
    """A finished step that is to be undone."""

    key: Key
    """Of the step; what undoes it is a step itself, with the key ``compensate/<key>``."""
    name: Key
    compensation: msgspec.Raw
    """As the step was saved with it."""
    result: msgspec.Raw = ABSENT
    result_ref: BlobRef | None = None


class CompensationsPage(Message):
    """What is left to undo, the step that finished last first."""

    compensations: list[Compensation] = []
    more: bool = False
    """There is more; ask again when these are undone."""


class ClaimRequest(Message):
    """Ask for work. A repeat with the same claim id returns the same attempts.

    Sent to ``withdraw`` it hands them back.
    """

    claim_id: Key
    """Random, chosen by the runner for one claim."""
    pod_name: Key
    pod_uid: Key
    slots: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    """Most attempts to return."""
    wait_ms: WholeMilliseconds = 10_000
    """How long the API may hold the request when there is nothing to do."""
    runner_version: str = ""
    credential: Literal["secret", "token", "session"] = "secret"
    """Which kind of credential the ``Authorization`` header carries; ``session`` is from an earlier answer."""


class ClaimedAttempt(Message):
    """All that a runner needs in order to run one attempt."""

    attempt_id: str
    token: str
    """The only credential that the child gets; valid for this attempt until it is closed."""
    run_id: str
    number: int
    """Attempts so far, this one included."""
    max_attempts: int
    task: str
    namespace: str
    entrypoint: str
    """``module:function``; empty for a container task, whose command is part of its pod."""
    lease_ms: int
    """The first lease; a heartbeat extends it by the normal one."""
    heartbeat_ms: int
    source: str | None = None
    """Text of the module, when the Task carries it inline."""
    payload: msgspec.Raw = ABSENT
    payload_ref: BlobRef | None = None
    steps: list[Step] = []
    """Finished steps, oldest first, up to :data:`STEPS_IN_CLAIM_LIMIT`."""
    next_steps: str | None = None
    """Cursor for ``GET /runtime/v1/steps?after=`` when there are more."""
    attempt_timeout_ms: int | None = None
    """Running time this attempt may use; reaching it fails the attempt with class ``timeout`` and it is retried."""
    timeout_ms: int | None = None
    """Running time that is left over all attempts; reaching it ends the run as TimedOut."""
    added_ms: int = 0
    """What earlier attempts have added to the run's running time; in ``timeout_ms`` already."""
    deadline_ms: int | None = None
    """Time until ``totalTimeout`` is over, waits included; reaching it ends the run as TimedOut. Nothing extends it."""
    checkpoint: msgspec.Raw = ABSENT
    """The state that the code has saved last."""
    checkpoint_ref: BlobRef | None = None
    grace_ms: int = 10_000
    """How long a cancelled or timed-out child may clean up before it is killed."""
    traceparent: str | None = None
    """W3C trace context for the user's code: its spans are children of this attempt's. None: nobody traces."""
    run_name: str | None = None
    """Name of the Run resource, if there is one."""
    tags: list[str] = []
    compensating: bool = False
    """The run has ended without success: undo what :attr:`compensate` lists, in its order, then ``complete``."""
    compensate: list[Compensation] = []
    """Up to :data:`STEPS_IN_CLAIM_LIMIT`, the step that finished last first."""
    more_compensations: bool = False
    """There is more: ``GET /runtime/v1/compensations`` when these are undone."""


class ClaimResponse(Message):
    """Answer to a claim; an empty list means that nothing came within the wait.

    With neither ``again`` nor ``leave``, a runner that got nothing ends, and one that got something ends with it.
    """

    attempts: list[ClaimedAttempt] = []
    again: bool = False
    """This pod is kept ready: ask again.

    A single-use pod asks with the same claim id until it has taken something. A pod with a session asks with a new
    claim id after every answer that it got, an empty one too; it repeats an id only where no answer came.
    """
    leave: bool = False
    """Nothing more comes for this pod: end when nothing is left to do."""
    session: str | None = None
    """With what a pod that takes one run after the other claims from now on. Only in the first answer that it gets."""
    slots: int = 1
    """Attempts that this pod may hold at once."""


class Beat(Message):
    """One slot's sign of life."""

    token: str
    memory_bytes: Bytes | None = None
    """Resident memory of the child's process group; explains a later OOM."""


class HeartbeatRequest(Message):
    """Signs of life of all slots of one runner, in one call."""

    beats: list[Beat]


class BeatAnswer(Message):
    """What the ledger says of one attempt, in the order of the request."""

    open: bool
    """False: another attempt may be running. Stop the child at once and write nothing more."""
    lease_ms: int = 0
    cancel: bool = False
    """Somebody cancelled the run: let the child clean up for the grace period, then end it."""
    run_added_ms: int = 0
    """What the code has added to the run's running time, over all attempts."""
    attempt_added_ms: int = 0
    """The same, to that of this attempt."""


class HeartbeatResponse(Message):
    """Answers, in the order of the request."""

    answers: list[BeatAnswer]


class SaveStepsRequest(Message):
    """Steps to save. All of them are durable when the answer arrives."""

    steps: list[Step]


class StepsPage(Message):
    """A page of finished steps."""

    steps: list[Step]
    next_steps: str | None = None


class Wait(Message):
    """A durable wait: over at a time, or when something happens. To begin one that has begun changes nothing."""

    key: Key
    """As for a step: a wait is one, and what comes of it stands in history."""
    name: Key
    args_hash: Key
    kind: StepKind
    due_in_ms: Milliseconds | None = None
    """When it is over at the latest, from its beginning."""
    due_at: str | None = None
    """The same as a time, in ISO 8601 with an offset."""
    target: Key | None = None
    """What it waits for: the name of an event, the id of a token or run."""
    detail: msgspec.Raw = ABSENT
    """JSON that the kind of wait defines."""
    place: Place | None = None
    """As for a step."""
    code_id: CodeId | None = None
    """As for a step."""


class WaitsRequest(Message):
    """Begin waits, or ask after them: both are the same, however often it is said."""

    waits: list[Wait] = []
    keys: list[Key] = []
    """Waits that have begun before, to ask after."""


class WaitsAnswer(Message):
    """Those of the waits that are over, as steps that have succeeded or failed."""

    over: list[Step] = []


class Child(Message):
    """A run to be started by the code of another. The key makes it one, however often it is asked for."""

    key: Key
    """As for a step: to start a run is one."""
    name: Key
    args_hash: Key
    task: Key
    """Name of a Task in the namespace of the run."""
    payload: msgspec.Raw = ABSENT
    version: int | None = None
    tags: list[str] = []
    idempotency_key: str | None = None
    """A run that has it is taken instead of a new one."""
    detached: bool = False
    """It goes on when the run that starts it is cancelled."""
    awaited: bool = False
    """The step is over when the run is; otherwise with the run's acceptance, and its result is the run's id."""
    due_in_ms: Milliseconds | None = None
    """For how long it is waited for, from now: a delay is part of it."""
    delay: Key | None = None
    """A duration: it starts no earlier than this long after it was first asked for."""
    start_at: Key | None = None
    """A time in ISO 8601 with an offset: it starts no earlier, nor earlier than ``delay`` says."""
    queue_ttl: Key | None = None
    """A duration: it ends as Expired if no attempt has begun this long after it might have."""
    place: Place | None = None
    """As for a step."""
    code_id: CodeId | None = None
    """As for a step."""


class ChildrenRequest(Message):
    """Runs to be started: all of them or none."""

    children: list[Child]


class ChildrenAnswer(Message):
    """Ids of the runs, in the order of the request."""

    run_ids: list[str]


class SuspendRequest(Message):
    """Every branch of the code is blocked on one of these waits."""

    waits: list[Key]
    groups: list[list[Key]] = []
    """Waits of which no single one lets the code go on: the run wakes when the last is over, or one fails."""
    together: list[list[Key]] = []
    """The same where a failure is as good as a result: the run wakes when the last is over."""


class SuspendAnswer(Message):
    """Whether the attempt has ended. If not, some of the waits are over, and the code goes on."""

    suspended: bool
    over: list[Step] = []


class CheckpointRequest(Message):
    """The state of a long loop, in place of the one before. Exactly one of the two values is set."""

    n: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    """Number within the attempt, from 1: an older one that was held up on its way changes nothing."""
    state: msgspec.Raw = ABSENT
    state_ref: BlobRef | None = None


class ExtendRequest(Message):
    """More running time, for this attempt and its run."""

    added_ms: WholeMilliseconds
    """All that this attempt has added so far: a repeat adds nothing, nor does an attempt that runs the code again."""


class EventDetail(Message):
    """What a wait for an event is for, as its ``detail``."""

    match: msgspec.Raw = ABSENT
    """JSON that the event's payload has to contain; absent or null: any event of the name."""
    lookback_ms: Milliseconds = 0.0
    """How long before the run's creation an event may have been sent."""


class Event(Message):
    """What a wait for an event results in."""

    name: str
    id: str
    payload: msgspec.Raw = ABSENT
    sent_at: str = ""
    """By the ledger's clock, in ISO 8601."""


class SendEventRequest(Message):
    """Send an event from within a run."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_NAME_MAX)]
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_NAME_MAX)]
    """Whoever sends it again says the same: it is sent once."""
    payload: msgspec.Raw = ABSENT


class EventAccepted(Message):
    """The event is durable."""

    id: str
    runs: int = 0
    """Runs that have taken it so far."""


class CreateTokenRequest(Message):
    """Make a token. A repeat with the same key returns the same one."""

    key: Key
    """Of the step that makes it."""
    timeout_ms: Milliseconds


class TokenCreated(Message):
    """A token, and the address that completes it."""

    id: str
    url: str


class NextClaim(Message):
    """Work that the runner asks for with the end of an attempt, so that it need not ask by itself.

    Never waited for. A pod that may not claim again gets nothing.
    """

    claim_id: Key
    slots: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1


class CompleteRequest(Message):
    """The run has succeeded. Exactly one of ``result`` and ``result_ref`` is set."""

    result: msgspec.Raw = ABSENT
    result_ref: BlobRef | None = None
    claim: NextClaim | None = None


class FailRequest(Message):
    """The attempt has failed; the ledger decides whether it is retried."""

    failure: Failure
    retry_after_ms: WholeMilliseconds | None = None
    """The user's ``RetryAt``: wait this long instead of the backoff."""
    timed_out: Literal["run", "attempt"] | None = None
    """Which timeout ended it, if one did."""
    cancelled: bool = False
    """The child ended because of a cancellation that a heartbeat announced."""
    rerun: list[Key] = []
    """Failed steps whose errors ended the attempt: the next one runs them again instead of failing in the same way."""
    claim: NextClaim | None = None


class ReleaseRequest(Message):
    """The runner must stop (SIGTERM) and hands the run back; no attempt and no budget is used."""

    reason: Key = "PodTerminated"


class Outcome(Message):
    """What closing an attempt led to. A repeat of the same call returns the same answer."""

    state: str
    """State of the run afterwards."""
    retry_in_ms: int | None = None
    attempts: list[ClaimedAttempt] = []
    """What ``claim`` took. Not repeated with a repeated answer: a claim with its id is."""
    leave: bool = False
    """As in a claim's answer."""


class End(Message):
    """One attempt's end. Exactly one of ``complete`` and ``fail`` is set, and neither has a ``claim``."""

    token: str
    """The attempt's."""
    complete: CompleteRequest | None = None
    fail: FailRequest | None = None


class EndsRequest(Message):
    """Ends of attempts of one pod. Each stands for itself: one that is refused does not keep the others."""

    ends: Annotated[list[End], msgspec.Meta(max_length=MOST_ENDS)]
    claim: NextClaim | None = None
    """Work for the slots that these ends have freed, and others. The ends stand whatever becomes of it."""


class EndAnswer(Message):
    """What became of one end: an outcome, or why it was refused."""

    outcome: Outcome | None = None
    """As of ``complete`` and ``fail``, always without ``attempts``: those stand in the answer to all."""
    error: ErrorBody | None = None
    """As they answer it: what a runner does with each code is the same."""
    status: int = 200
    """HTTP status that it would have had alone."""


class EndsAnswer(Message):
    """Answers, in the order of the request. A repeat is answered alike, but for what ``claim`` took."""

    ends: list[EndAnswer]
    attempts: list[ClaimedAttempt] = []
    """What ``claim`` took. Not repeated with a repeated answer: a claim with its id is."""
    leave: bool = False
    """As in a claim's answer."""


class LogLine(Message):
    """One line of output."""

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    """Numbered by the runner from 1 without gaps, over all streams of the attempt."""
    stream: LogStream
    text: str
    age_ms: Milliseconds = 0.0
    """Milliseconds between the line and the moment this message was sent."""
    step: str | None = None


class LogsRequest(Message):
    """Lines in order. Lines that the ledger has are ignored, so a repeat is harmless."""

    lines: list[LogLine]


class BlobStored(Message):
    """Answer to an upload."""

    sha256: str
    size: int
