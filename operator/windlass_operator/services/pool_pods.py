"""What pods of WorkerPools are made of: the Task's part, and the pool's."""

from dataclasses import replace

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PoolPod
from windlass_operator.ledger.worker_pools import Template


def pool_pod(name: str, template: Template) -> PoolPod:
    """Return what makes a pod one of this pool."""
    return PoolPod(
        name,
        template.max_age,
        template.max_runs,
        in_process=template.in_process,
        max_runs_per_process=template.max_runs_per_process,
    )


def with_template(parts: PodParts, template: Template) -> PodParts:
    """Return what a pod of a pool is made of: the Task's part and the pool's."""
    return replace(parts, resources=template.resources, pod_template=template.pod_template)
