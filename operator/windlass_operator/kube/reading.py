"""Objects of Kubernetes, read into what the rules work with."""

from collections.abc import Mapping
from typing import Any

from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.kube.pod_status import Stage, read_pod
from windlass_operator.kube.protection import is_marked
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.resources.task import TaskSpec


def read_task(body: Mapping[str, Any], default_image: str) -> TaskSnapshot:
    """Return the snapshot of a Task.

    Raises:
        TaskInvalidError: It cannot be run as it is written; the text names the field.
    """
    try:
        spec = TaskSpec.from_object(body.get("spec"), at="spec")
    except ResourceInvalidError as error:
        raise TaskInvalidError(error.message, field=error.field) from None
    source = spec.source.inline if spec.source else None
    parts = PodParts(
        image=spec.image or default_image,
        # Inline source comes with the claim; code in the image can be imported while the runner claims.
        # The pods of a pool serve many Tasks, and learn of each with its first run.
        preload=spec.entrypoint.partition(":")[0] if spec.entrypoint and not source and not spec.pool else None,
        source_hash=content_hash(source) if source and not spec.pool else None,
        env=spec.env_objects(),
        resources=spec.resources.to_object(),
        pod_template=spec.pod_template or {},
        isolation=spec.isolation,
        command=spec.command,
        args=spec.args,
        pool=spec.pool,
    )
    return TaskSnapshot(
        entrypoint=spec.entrypoint,
        source=source,
        pod=parts,
        retry=spec.retry.policy(),
        timeout=spec.timeout_duration,
        attempt_timeout=spec.attempt_timeout_duration,
        total_timeout=spec.total_timeout_duration,
        start_timeout=spec.start_timeout_duration,
        payload_schema=spec.payload_schema,
        queue=spec.queue,
        priority=spec.priority or None,
        standby=spec.standby,
        ttl_seconds=spec.ttl_after_finished_duration.total_seconds(),
    )


def read_event(body: Any) -> dict[str, Any]:
    """Return what an Event says: ``at``, ``reason``, ``message``, ``count``. Never raises."""
    event = body if isinstance(body, Mapping) else {}
    at = next((t for k in ("lastTimestamp", "eventTime", "firstTimestamp") if isinstance(t := event.get(k), str)), "")
    count = event.get("count")
    return {
        "at": at,
        "reason": str(event.get("reason") or "")[:80],
        "message": str(event.get("message") or "")[:1_000],
        "count": count if type(count) is int else 1,
    }


def see_pod(body: Any, *, deleted: bool = False) -> PodSeen:
    """Return what a look at a pod shows. Never raises."""
    pod = read_pod(body, deleted=deleted)
    ended = pod.stage in (Stage.SUCCEEDED, Stage.FAILED)
    why = pod.lost or pod.problem if ended or pod.stage is Stage.GONE else pod.problem
    message = why.message if why else None
    if ended and why is None and pod.exit_code:
        message = f"The runner exited with code {pod.exit_code}."
    return PodSeen(
        name=pod.name,
        namespace=pod.namespace,
        uid=pod.uid,
        exists=pod.stage is not Stage.GONE,
        ended=ended,
        succeeded=pod.stage is Stage.SUCCEEDED,
        started=pod.stage is Stage.RUNNING,
        node=pod.node,
        reason=why.reason if why else None,
        message=message,
        last_state=pod.last_state,
        exit_code=pod.exit_code,
        memory_limit=pod.memory_limit,
        marked=is_marked(body) if pod.stage is not Stage.GONE else None,
    )
