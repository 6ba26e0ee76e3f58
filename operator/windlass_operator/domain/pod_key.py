"""What makes two runs able to share a pod: the pod key.

A pod belongs to a pod key, never to a run. Edits of a Task's retry, timeout or payload schema keep the key, so pods
started before the edit still serve; edits of anything that the pod is made of change it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from windlass_operator.domain.ids import content_hash

Isolation = Literal["Pod", "Pool"]


@dataclass(frozen=True, slots=True)
class PodParts:
    """Everything of a Task that a pod is made of, as plain JSON values."""

    image: str
    preload: str | None
    """Module that the zygote imports while the runner claims; None where the source is inline."""
    source_hash: str | None
    """Hash of the inline source. The text itself reaches the pod in the claim."""
    env: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    resources: Mapping[str, Any] = field(default_factory=dict)
    pod_template: Mapping[str, Any] = field(default_factory=dict)
    isolation: Isolation = "Pod"
    command: Sequence[str] | None = None
    """Of a container task; None for a Python function."""
    args: Sequence[str] | None = None
    pool: str | None = None
    """WorkerPool whose pods these are. What it gives them is no part of the key: its edits keep it."""

    def as_json(self) -> dict[str, Any]:
        """Return the parts as the JSON object that the ledger keeps."""
        parts = asdict(self)
        if self.pool is None:
            del parts["pool"]  # as before there were pools: an upgrade changes no key
        return parts


def pod_key(project_uid: str, parts: PodParts) -> str:
    """Return the pod key: a hash over the project and the parts.

    Args:
        project_uid: UID of the namespace, so that equal Tasks of two projects never share a pod.
        parts: What the pod is made of.
    """
    return content_hash([project_uid, parts.as_json()])
