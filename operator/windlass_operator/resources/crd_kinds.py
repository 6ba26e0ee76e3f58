"""The CRD of each kind: its names, its columns, and the models of its spec and status."""

from collections.abc import Callable
from typing import Any, Final

from windlass_operator.resources import names
from windlass_operator.resources.approval import ApprovalSpec, ApprovalStatus
from windlass_operator.resources.base import KubeModel
from windlass_operator.resources.queue import QueueSpec, QueueStatus
from windlass_operator.resources.run import RunSpec, RunStatus
from windlass_operator.resources.structural import structural
from windlass_operator.resources.task import TaskSpec, TaskStatus
from windlass_operator.resources.worker_pool import WorkerPoolSpec, WorkerPoolStatus

Object = dict[str, Any]


def _column(name: str, path: str, description: str, *, type_: str = "string", wide: bool = False) -> Object:
    column: Object = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "When it was created.", type_="date")


def task_crd() -> Object:
    """Return the CRD of Task."""
    return _crd(
        names.TASK_KIND,
        names.TASKS,
        "wt",
        "A Task says what to run, and how: the code, its retries, its limits. It runs nothing by itself; a Run does.",
        (TaskSpec, TaskStatus),
        columns=[
            _column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether runs of it can start."),
            _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why, or why not."),
            _column("Version", ".status.version", "Number of the current version.", type_="integer"),
            _AGE,
            _column("Entrypoint", ".spec.entrypoint", "The function that it runs.", wide=True),
            _column("Image", ".spec.image", "The image that it runs in; empty for the runner image.", wide=True),
            _column("Standby", ".spec.standby", "Pods that are kept ready.", type_="integer", wide=True),
        ],
        selectable=[],
    )


def run_crd() -> Object:
    """Return the CRD of Run."""
    return _crd(
        names.RUN_KIND,
        names.RUNS,
        "wr",
        "A Run is one execution of a Task. Create it to start, read its status to follow, delete it to cancel. "
        "Windlass deletes it ttlAfterFinished after its end; the run stays readable through the API.",
        (RunSpec, RunStatus),
        columns=[
            _column("State", ".status.state", "Where the run stands."),
            _column("Task", ".spec.taskRef.name", "The Task that it runs."),
            _column("Attempt", ".status.attempt", "Attempts so far.", type_="integer"),
            _column("Reason", ".status.reason", "Why it is not running, or why it ended as it did."),
            _AGE,
            _column("Pod", ".status.podName", "Pod of the current or last attempt.", wide=True),
            _column("Duration", ".status.duration", "From the first attempt to the end.", wide=True),
        ],
        selectable=[".spec.taskRef.name", ".status.state"],
    )


def approval_crd() -> Object:
    """Return the CRD of Approval."""
    return _crd(
        names.APPROVAL_KIND,
        names.APPROVALS,
        "wa",
        "An Approval is a question of a run to people; the run waits for the answer and holds no pod. Decide by "
        "setting spec.decision and spec.by, or with windlass approvals approve. Windlass makes it, and deletes it some "
        "time after the run's end.",
        (ApprovalSpec, ApprovalStatus),
        columns=[
            _column("State", ".status.state", "Whether it is decided, and how."),
            _column("Task", ".spec.task", "The Task that asks."),
            _column("Question", ".status.summary", "What is to be decided."),
            _column("By", ".status.by", "Who decided."),
            _AGE,
            _column("Expires", ".spec.expiresAt", "Until when it can be decided.", wide=True),
            _column("Run", ".spec.runId", "Id of the run that waits.", wide=True),
        ],
        selectable=[".spec.task", ".spec.runId", ".status.state"],
    )


def queue_crd() -> Object:
    """Return the CRD of Queue."""
    return _crd(
        names.QUEUE_KIND,
        names.QUEUES,
        "wq",
        "A Queue is what runs wait in, with limits that they keep together: how many may be under way, and whether "
        "any starts at all. A Task names it in spec.queue; one that names none has a queue of its own, with its name.",
        (QueueSpec, QueueStatus),
        columns=[
            _column("Running", ".status.running", "Runs under way.", type_="integer"),
            _column("Concurrency", ".spec.concurrency", "How many may be; empty for any number.", type_="integer"),
            _column("Queued", ".status.queued", "Runs that wait to start.", type_="integer"),
            _column("Paused", ".spec.paused", "Whether no run starts.", type_="boolean"),
            _AGE,
            _column("Delayed", ".status.delayed", "Runs that start later.", type_="integer", wide=True),
            _column("Oldest", ".status.oldest", "Since when the first queued run waits.", type_="date", wide=True),
        ],
        selectable=[],
    )


def worker_pool_crd() -> Object:
    """Return the CRD of WorkerPool."""
    crd = _crd(
        names.WORKER_POOL_KIND,
        names.WORKER_POOLS,
        "wp",
        "A WorkerPool is a set of pods that are up already and take one run after the other, for all Tasks that name "
        "it with isolation: Pool. Windlass decides how many there are, down to none, unless you do.",
        (WorkerPoolSpec, WorkerPoolStatus),
        columns=[
            _column("Ready", ".status.ready", "Pods that take runs.", type_="integer"),
            _column("Desired", ".status.desired", "Pods that there should be.", type_="integer"),
            _column("Busy", ".status.busy", "Pods that have a run.", type_="integer"),
            _column("Running", ".status.running", "Runs in its pods.", type_="integer"),
            _column("Queued", ".status.queued", "Runs that wait to start.", type_="integer"),
            _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Whether its pods are well."),
            _AGE,
            _column("Max", ".spec.maxReplicas", "Pods at most.", type_="integer", wide=True),
            _column("Slots", ".spec.slots", "Runs that one pod has at once.", type_="integer", wide=True),
        ],
        selectable=[],
    )
    version = crd["spec"]["versions"][0]
    version["subresources"]["scale"] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return crd


def _crd(
    kind: str,
    plural: str,
    short: str,
    description: str,
    models: tuple[type[KubeModel], type[KubeModel]],
    *,
    columns: list[Object],
    selectable: list[str],
) -> Object:
    spec, status = (structural(model) for model in models)
    version: Object = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    if selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in selectable]
    version["schema"] = {
        "openAPIV3Schema": {
            "description": description,
            "type": "object",
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string", "description": f"{names.API_VERSION}."},
                "kind": {"type": "string", "description": f"{kind}."},
                "metadata": {"type": "object"},
                "spec": spec,
                "status": status,
            },
        }
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


KINDS: Final[tuple[Callable[[], Object], ...]] = (task_crd, run_crd, approval_crd, queue_crd, worker_pool_crd)
"""Makes the CRD of each kind that Windlass has."""
