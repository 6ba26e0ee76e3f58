"""Names that stand on the wire: the API group, kinds, labels. Other systems match on these, so they never change."""

import re
from typing import Final

GROUP: Final = "windlass.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "windlass"
"""``kubectl get windlass`` lists every kind of ours. Not ``all``: that would put runs into everyone's overview."""

TASK_KIND: Final = "Task"
TASKS: Final = "tasks"
RUN_KIND: Final = "Run"
RUNS: Final = "runs"
APPROVAL_KIND: Final = "Approval"
APPROVALS: Final = "approvals"
QUEUE_KIND: Final = "Queue"
QUEUES: Final = "queues"
WORKER_POOL_KIND: Final = "WorkerPool"
WORKER_POOLS: Final = "workerpools"

PREFIX: Final = "windlass.dev/"
"""Of every label, annotation and finalizer that we set; what does not begin with it is not ours to touch."""

TASK_LABEL: Final = f"{PREFIX}task"
POOL_LABEL: Final = f"{PREFIX}pool"
RUN_ID_LABEL: Final = f"{PREFIX}run-id"
ATTEMPT_LABEL: Final = f"{PREFIX}attempt"
TASK_VERSION_LABEL: Final = f"{PREFIX}version"

TRACEPARENT_ANNOTATION: Final = f"{PREFIX}traceparent"
"""On a Run: W3C trace context of whoever made it, for tools that may add annotations and not change specs."""

DO_NOT_DISRUPT_ANNOTATION: Final = f"{PREFIX}do-not-disrupt"
"""On a pod: a protected step runs in it. Ours alone: the operator takes it off."""

FINALIZER: Final = f"{PREFIX}operator"
"""For kinds that must be cleaned up after. Runs have none: an operator that is down must not hold up a namespace."""

NAME_MAX: Final = 253
"""Characters of an object's name."""
_OBJECT_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


def is_object_name(text: str) -> bool:
    """Whether an object can have this name; of one that none has, Kubernetes need not be asked."""
    return len(text) <= NAME_MAX and _OBJECT_NAME.fullmatch(text) is not None
