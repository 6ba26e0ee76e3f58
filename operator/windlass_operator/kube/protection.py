"""Annotations that keep cluster tools from removing a pod, while a protected step runs in it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from windlass_operator.resources.names import DO_NOT_DISRUPT_ANNOTATION

_KEEPS: Final[Mapping[str, str]] = {
    DO_NOT_DISRUPT_ANNOTATION: "true",
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}


def annotations(template: Mapping[str, Any], *, protected: bool) -> dict[str, str | None]:
    """Return what is merged into a pod's annotations; None takes one off.

    Args:
        template: Of the Task or pool. What it says of the same annotations holds again when no step is protected.
        protected: Whether a protected step runs.
    """
    if protected:
        return dict(_KEEPS)
    own = (template.get("metadata") or {}).get("annotations") or {}
    return {name: own.get(name) for name in _KEEPS}


def is_marked(body: Any) -> bool:
    """Return whether a pod carries our annotation. Never raises: anybody may write annotations."""
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    found = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return isinstance(found, Mapping) and found.get(DO_NOT_DISRUPT_ANNOTATION) == "true"
