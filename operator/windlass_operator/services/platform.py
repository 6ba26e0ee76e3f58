"""What all services together need of the place where resources and pods are: Kubernetes, or local mode."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from windlass_operator.services.approval_resources import ApprovalObjects
from windlass_operator.services.credentials import SecretStore
from windlass_operator.services.imports import RunReader
from windlass_operator.services.mirror import Objects
from windlass_operator.services.namespaces import Namespaces
from windlass_operator.services.pods import Cluster as Pods
from windlass_operator.services.projection import RunResources
from windlass_operator.services.protection import Pods as MarkedPods
from windlass_operator.services.tasks import TaskResources


class Cluster(Pods, MarkedPods, TaskResources, RunReader, RunResources, SecretStore, Namespaces, Protocol):
    """Projects, Tasks, Runs, pods and the runner's credential."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One such place.

    Attributes:
        cluster: Everything but approvals, queues and pools.
        approvals: Resources of approvals.
        queues: Resources of queues.
        pools: Resources of worker pools.
        close: Ends the connections to it.
    """

    cluster: Cluster
    approvals: ApprovalObjects
    queues: Objects
    pools: Objects
    close: Callable[[], Awaitable[None]]
