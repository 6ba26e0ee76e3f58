"""Every reason that a status can show, with what it means and what to do. Public: programs match on the values.

The codes of errors (``windlass_operator.domain.errors``) that end in a status are reasons too, so that a user reads one
word in status, API and log. ``docs/reference`` prints this table.
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """One word for why a run is not running, or why it ended as it did.

    Attributes:
        meaning: What has happened.
        remedy: What to do, or that there is nothing to do.
    """

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str = "", remedy: str = "") -> Self:
        """Make a member that compares and serialises as its value alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.remedy = remedy
        member.__doc__ = f"{meaning} {remedy}"
        return member

    # The request itself
    TASK_NOT_FOUND = (
        "TaskNotFound",
        "The Task that the run names, or that version of it, is not in the namespace.",
        "Apply the Task within startTimeout and the run goes on; else create another Run with the right name.",
    )
    TASK_INVALID = (
        "TaskInvalid",
        "The Task cannot be run as it is written; the message names the field.",
        "Correct the Task. Runs that wait for it go on.",
    )
    SPEC_INVALID = (
        "SpecInvalid",
        "The Run cannot be read: its CRD is older than the operator, or it breaks a rule that a CRD cannot state.",
        "Correct the field that the message names in another Run, and bring the CRDs up to date.",
    )
    PAYLOAD_INVALID = (
        "PayloadInvalid",
        "The payload breaks the Task's payloadSchema, or the schema itself is none; the message names the path.",
        "Create another Run with a payload that fits, or correct the schema.",
    )
    PAYLOAD_TOO_LARGE = (
        "PayloadTooLarge",
        "The payload is over its limit.",
        "Submit it through the API, or store it elsewhere and pass where it is.",
    )
    DEDUPLICATED = (
        "Deduplicated",
        "An earlier run has the same idempotency key; this Run is a handle on that one.",
        "Nothing: the status shows the earlier run. Use another key for another run.",
    )
    FORBIDDEN_NAMESPACE = (
        "NamespaceForbidden",
        "Tasks cannot run in the namespace of Windlass itself: they could read its credentials.",
        "Apply Task and Run in another namespace.",
    )
    SPEC_CHANGE_IGNORED = (
        "SpecChangeIgnored",
        "The spec of an accepted Run was changed; the run goes on with what it was accepted with.",
        "Create another Run for another payload. Turn the chart's admissionPolicy on, and such changes are refused.",
    )

    # The code
    SOURCE_SYNTAX_ERROR = (
        "SourceSyntaxError",
        "source.inline is not valid Python; the message gives the line.",
        "Correct the Task and create another Run.",
    )
    ENTRYPOINT_IMPORT_FAILED = (
        "EntrypointImportFailed",
        "The entrypoint's module cannot be imported or has no such function; the message gives file and line.",
        "Correct the entrypoint, or add to the image what the module imports.",
    )
    COMMAND_NOT_STARTED = (
        "CommandNotStarted",
        "The program that spec.command names cannot be started in its image; the message has the system's own words.",
        "Correct spec.command: the program's path in the image, its permissions, its architecture.",
    )
    COMMAND_FAILED = (
        "CommandFailed",
        "The command of a container task ended with an exit code other than 0, or by a signal; its last lines follow.",
        "Look at the run's log. It counts as a failure of the code and is retried as such.",
    )
    RESULT_NOT_SERIALIZABLE = (
        "ResultNotSerializable",
        "A step, the task or WINDLASS_RESULT_FILE has something that is not JSON; the message says what and where.",
        "Return plain values, dataclasses or pydantic models; write JSON into the result file.",
    )
    RESULT_TOO_LARGE = (
        "ResultTooLarge",
        "A step or the task returned more than can be stored.",
        "Write it to your own store and return where it is; with an object store configured the limit is higher.",
    )
    DIVERGENCE = (
        "Divergence",
        "The code asks for another step, or other arguments, than history has there; the message names both.",
        "Apply code that fits, or give the task a migrate= function, and `windlass runs resume` it; or cancel it.",
    )

    # The code waits
    WAITING_FOR_TIMER = (
        "WaitingForTimer",
        "The code sleeps; the message says until when. No pod is held.",
        "Nothing; cancel the run if it is not wanted any more.",
    )
    WAITING_FOR_EVENT = (
        "WaitingForEvent",
        "The code waits for an event. No pod is held.",
        "Send the event: `windlass events send`.",
    )
    WAITING_FOR_TOKEN = (
        "WaitingForToken",
        "The code waits for somebody to call the address of a token. No pod is held.",
        "Nothing; whoever has the address completes it.",
    )
    WAITING_FOR_APPROVAL = (
        "WaitingForApproval",
        "The code waits for a person's decision. No pod is held.",
        "Decide: `kubectl get approvals`, `windlass approvals approve`.",
    )
    WAITING_FOR_RUN = (
        "WaitingForRun",
        "The code waits for runs that it has started. No pod is held.",
        "Nothing; `windlass runs tree` shows them.",
    )

    # The pod
    POD_PENDING = (
        "PodPending",
        "The pod exists and has not started yet; the message says what it waits for.",
        "Usually nothing. If it stays, look at `kubectl describe pod` and the nodes.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "No node takes the pod; the message has the scheduler's own words.",
        "Lower the Task's resources, change nodeSelector or tolerations, or add nodes.",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "The image cannot be pulled: a wrong name, no such tag, or no access.",
        "Correct spec.image, or name a pull secret in podTemplate.spec.imagePullSecrets.",
    )
    SECRET_NOT_FOUND = (
        "SecretNotFound",
        "A Secret or ConfigMap that the Task's env names, or its key, does not exist; the message says which.",
        "Create it and the run goes on by itself.",
    )
    IMAGE_RUNS_AS_ROOT = (
        "ImageRunsAsRoot",
        "The image wants to run as root, or names its user in words; pods of Windlass never run as root.",
        "Set podTemplate.spec.securityContext.runAsUser to a number such as 65532, or give the image a numeric USER.",
    )
    CONTAINER_START_FAILED = (
        "ContainerStartFailed",
        "The node could not start the container; the message has its own words.",
        "Check the image (for entrypoint: built on the runner image), and what podTemplate mounts.",
    )
    POD_TEMPLATE_INVALID = (
        "PodTemplateInvalid",
        "The Task's podTemplate changes what must stay; the message names the field.",
        "Remove that field from the podTemplate.",
    )
    ENV_INVALID = (
        "EnvInvalid",
        "A variable of the Task's env has a name that belongs to the runner, or is given twice.",
        "Choose another name.",
    )
    FORBIDDEN_BY_POLICY = (
        "ForbiddenByPolicy",
        "The cluster refuses the pod: a quota, the namespace's Pod Security level, RBAC or another policy.",
        "The message has the server's own words and what to change.",
    )
    KUBERNETES_INVALID = (
        "KubernetesInvalid",
        "The API server refuses the pod as it was built; the message names the field.",
        "Correct the Task's resources, env or podTemplate.",
    )
    POD_ENDED = (
        "PodEnded",
        "The pod ended before its runner reported; the message has the exit code.",
        "Nothing: another attempt follows. If it repeats, look at the saved last state of the pod.",
    )
    POD_DELETED = (
        "PodDeleted",
        "The pod was deleted while it worked.",
        "Nothing: another attempt follows and uses none of maxAttempts.",
    )
    POD_TERMINATED = (
        "PodTerminated",
        "The pod was asked to end (a drain, a preemption) and handed the run back.",
        "Nothing: another attempt follows and uses none of maxAttempts.",
    )
    NODE_LOST = (
        "NodeLost",
        "The node does not report any more.",
        "Nothing: another attempt follows and uses none of maxAttempts.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "The code used more memory than resources.limits.memory allows.",
        "Raise the limit or use less. It counts as a failure of the code and is retried as such.",
    )
    NODE_OUT_OF_MEMORY = (
        "NodeOutOfMemory",
        "The node ran out of memory and ended the code, which was not at a limit of its own.",
        "Nothing: another attempt follows and uses none of maxAttempts. Requests of what is really used prevent it.",
    )

    # Queues
    PAUSED = (
        "Paused",
        "The run's queue is paused.",
        "Set spec.paused of the Queue to false.",
    )
    CONCURRENCY_LIMIT = (
        "ConcurrencyLimit",
        "As many runs of the queue are under way as its concurrency allows.",
        "Nothing: it starts when one of them ends or begins to wait. Raise spec.concurrency of the Queue for more.",
    )
    QUEUE_NOT_FOUND = (
        "QueueNotFound",
        "The Task names a Queue that is not in the namespace, so nobody knows its limits.",
        "Create the Queue, or take queue out of the Task.",
    )
    POOL_NOT_FOUND = (
        "PoolNotFound",
        "The Task names a WorkerPool that is not in the namespace, so there are no pods to run in.",
        "Create the WorkerPool, or change pool of the Task.",
    )
    PODS_STARTING = (
        "PodsStarting",
        "Pods of the WorkerPool that should be up are still to come.",
        "Nothing. If it lasts, look at the pods with the selector in the pool's status.",
    )
    QUEUE_FULL = (
        "QueueFull",
        "As many runs wait in the queue as its maxLength allows; this one was refused.",
        "Try again later, or raise spec.maxLength of the Queue.",
    )
    DELAYED = (
        "Delayed",
        "The run was asked to start later.",
        "Nothing: it may start at nextAttemptAt.",
    )
    QUEUE_TTL_EXPIRED = (
        "QueueTTLExpired",
        "The run did not start within its queueTTL.",
        "Create another Run, or allow it more time. The queue's limits may be too low for what is asked.",
    )

    # Attempts
    LEASE_EXPIRED = (
        "LeaseExpired",
        "The runner fell silent for longer than its lease, so the attempt was closed; it can write nothing any more.",
        "Nothing: another attempt follows. If it repeats, look for pods starved of CPU or cut off from the API.",
    )
    RETRY_SCHEDULED = (
        "RetryScheduled",
        "An attempt has failed and another one follows at nextAttemptAt; the error says why.",
        "Nothing.",
    )
    ATTEMPTS_EXHAUSTED = (
        "AttemptsExhausted",
        "The last attempt that retry.maxAttempts or the platform's own budget allows has failed; the error says why.",
        "Mend the cause and create another Run.",
    )
    PERMANENT_ERROR = (
        "PermanentError",
        "The code raised PermanentError, or an error that it declared not worth a retry.",
        "Mend the cause that the error names and create another Run.",
    )
    TIMED_OUT = (
        "TimedOut",
        "The running time of spec.timeout is used up, over all attempts.",
        "Raise spec.timeout, or find out which step takes the time.",
    )
    TOTAL_TIMED_OUT = (
        "TotalTimedOut",
        "The run had not ended within spec.totalTimeout, which counts from its acceptance and includes all waits.",
        "Raise spec.totalTimeout, or find out what the run waited for; then create another Run.",
    )
    ATTEMPT_TIMED_OUT = (
        "AttemptTimedOut",
        "The attempt ran for as long as attemptTimeout allows.",
        "Raise attemptTimeout, or find out which step takes the time. It is retried as a failure of the code.",
    )
    COMPENSATION_FAILED = (
        "CompensationFailed",
        "The run has ended, and what some of its finished steps did could not be undone; the message names them.",
        "Undo by hand what the named steps did; the events and the failed compensate/… steps say why it was not done.",
    )
    CANCELLED = (
        "Cancelled",
        "Somebody asked for the end: spec.cancel, the API or the command line.",
        "Nothing.",
    )
    PARENT_CANCELLED = (
        "ParentCancelled",
        "The run whose code has started this one was cancelled or ran out of time.",
        "Nothing. What is to go on is triggered with detached=True.",
    )
    RESOURCE_DELETED = (
        "ResourceDeleted",
        "The Run resource, or the whole namespace, was deleted before the run had ended, which cancels it.",
        "Nothing. To keep a run, keep its resource until the run has ended.",
    )

    # The ledger
    LEDGER_UNAVAILABLE = (
        "LedgerUnavailable",
        "Postgres does not answer. Nothing is lost and nothing advances until it does.",
        "Bring Postgres back; everything goes on by itself.",
    )
    LEDGER_REGRESSED = (
        "LedgerRegressed",
        "The status names a run that the ledger does not know (restored backup, copied status); it is not run again.",
        "Find out what the run did before. To run it once more, delete and create the Run.",
    )

    # Approvals
    APPROVAL_UNKNOWN = (
        "ApprovalUnknown",
        "No run waits for this Approval: Windlass did not make it, or it is of another ledger. It decides nothing.",
        "Delete it. Turn the chart's admissionPolicy on, and nobody else can make Approvals.",
    )
    DECIDED_BEFORE = (
        "DecidedBefore",
        "The Approval's spec has a decision that came after another one, or after the wait's end. It has no effect.",
        "Nothing; the status shows what counts.",
    )

    # Tasks
    ACCEPTED = (
        "Accepted",
        "Runs of the Task can start.",
        "Nothing.",
    )
