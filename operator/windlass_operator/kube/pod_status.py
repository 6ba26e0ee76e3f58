"""Reads what a Pod object says, in our words.

Pure, and total: an object may be stale, partial or junk, and a reader that raised on one would stop the watch of all.

The phase is never how we learn that an attempt is over; the runner tells that itself, a second earlier. What is read
here is why a pod does not start, and that it was lost.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from windlass_operator.kube.runner_names import MAIN_CONTAINER, POD_KEY_LABEL, RUNNER_CONTAINER
from windlass_operator.resources.reasons import Reason

Object = Mapping[str, Any]

_LONGEST_MESSAGE: Final = 1_000
_NOTHING: Final[Object] = {}

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_START_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_START_ENDS: Final = frozenset({"ContainerCannotRun", "StartError"})
_MISSING_REFERENCE: Final = re.compile(r"\b(secrets?|configmaps?)\b", re.IGNORECASE)
_QUANTITY: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(?:([KMGTPE])i|([kMGTPE]))?")
_ROOT: Final = re.compile(r"\brunAsNonRoot\b")
"""The kubelet's words for an image whose user is root, or not a number."""
_NOT_LOST: Final = frozenset({"DeadlineExceeded"})
"""Reasons of a failed pod that are its own doing. Every other one is the cluster's: eviction, node, admission."""


class Stage(StrEnum):
    """How far a pod has come."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    GONE = "gone"
    """Deleted; only a watch tells so, the object does not."""


class Cause(NamedTuple):
    """A reason in PascalCase, and the cluster's own words."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodObservation:
    """What one look at a pod shows.

    Attributes:
        name: Of the pod; empty in junk.
        namespace: Of the pod.
        uid: Of the pod.
        pod_key: From its label, or None for a pod that is not ours.
        stage: How far it has come.
        terminating: Whether its deletion has begun.
        node: Where it was placed.
        started_at: When the container that runs the user's code started.
        exit_code: Of that container; for a container task the shim's, which is what the runner told it.
        problem: Why it does not start, or why its container ended; ``reason`` is one of Windlass's reasons.
        memory_limit: Of that container, in bytes; None without one.
        lost: That the cluster took it away, and why; ``reason`` is Kubernetes' own word. May come while it still runs.
        last_state: Summary as JSON, kept when the pod is deleted.
    """

    name: str
    namespace: str
    uid: str
    pod_key: str | None
    stage: Stage
    terminating: bool = False
    node: str | None = None
    started_at: datetime | None = None
    exit_code: int | None = None
    memory_limit: int | None = None
    problem: Cause | None = None
    lost: Cause | None = None
    last_state: dict[str, Any] = field(default_factory=dict)


def read_pod(pod: Any, *, deleted: bool = False) -> PodObservation:
    """Read a Pod object. Never raises.

    Args:
        pod: As the API server sent it, or anything else.
        deleted: Whether a watch reported it as deleted.
    """
    metadata, status = _map(_map(pod).get("metadata")), _map(_map(pod).get("status"))
    container = _main(status)
    ended = _ended(container)
    started = _text(ended.get("startedAt")) or _text(_map(_map(container.get("state")).get("running")).get("startedAt"))
    node = _text(_map(_map(pod).get("spec")).get("nodeName"))
    code, limit = ended.get("exitCode"), _memory_limit(pod, container)
    return PodObservation(
        name=_text(metadata.get("name")) or "",
        namespace=_text(metadata.get("namespace")) or "",
        uid=_text(metadata.get("uid")) or "",
        pod_key=_text(_map(metadata.get("labels")).get(POD_KEY_LABEL)),
        stage=Stage.GONE if deleted else _stage(status),
        terminating=bool(metadata.get("deletionTimestamp")),
        node=node,
        started_at=_time(started),
        exit_code=code if type(code) is int else None,
        memory_limit=limit,
        problem=_first_problem(status, container),
        lost=_lost(status, ended),
        last_state=_last_state(status, container, node),
    )


def _stage(status: Object) -> Stage:
    # Unknown is a node out of sight: its pod ran when it was last seen, and `lost` tells the rest.
    phases = {"Running": Stage.RUNNING, "Unknown": Stage.RUNNING, "Succeeded": Stage.SUCCEEDED, "Failed": Stage.FAILED}
    return phases.get(_text(status.get("phase")) or "", Stage.PENDING)


def _memory_limit(pod: Any, container: Object) -> int | None:
    specs = _items(_map(_map(pod).get("spec")).get("containers"))
    ours = next((s for s in specs if s.get("name") == container.get("name")), _NOTHING)
    return in_bytes(_map(_map(ours.get("resources")).get("limits")).get("memory"))


def _first_problem(status: Object, container: Object) -> Cause | None:
    """Return the problem of the user's container, or else of one that must start before it."""
    before = [c for c in _items(status.get("initContainerStatuses")) if not _is_done(c)]
    return next((found for c in (container, *before) if (found := _problem(status, c)) is not None), None)


def _is_done(container: Object) -> bool:
    """Whether an init container has done its work, or a sidecar runs or was ended in the end."""
    return container.get("started") is True or _ended(container).get("exitCode") == 0


def _problem(status: Object, container: Object) -> Cause | None:
    ended = _ended(container)
    how = _text(ended.get("reason"))
    if how == "OOMKilled":
        return Cause(Reason.OUT_OF_MEMORY.value, "The kernel ended the container for want of memory.")
    if how in _START_ENDS:
        return _cause(Reason.CONTAINER_START_FAILED, ended)
    waiting = _map(_map(container.get("state")).get("waiting"))
    why = _text(waiting.get("reason"))
    if why in _IMAGE_REASONS:
        return _cause(Reason.IMAGE_PULL_FAILED, waiting)
    if why in _START_REASONS and _ROOT.search(_text(waiting.get("message")) or ""):
        return _cause(Reason.IMAGE_RUNS_AS_ROOT, waiting)
    if why in _START_REASONS:
        missing = _MISSING_REFERENCE.search(_text(waiting.get("message")) or "")
        return _cause(Reason.SECRET_NOT_FOUND if missing else Reason.CONTAINER_START_FAILED, waiting)
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and _stage(status) is Stage.PENDING:
        return {
            "Unschedulable": _cause(Reason.UNSCHEDULABLE, scheduled),
            "SchedulingGated": _cause(Reason.POD_PENDING, scheduled),
        }.get(_text(scheduled.get("reason")) or "")
    return None


def _lost(status: Object, ended: Object) -> Cause | None:
    disruption = _condition(status, "DisruptionTarget")
    if disruption.get("status") == "True":
        return _cause(_text(disruption.get("reason")) or "DisruptionTarget", disruption)
    reason = _text(status.get("reason"))
    if status.get("phase") == "Failed" and reason and reason not in _NOT_LOST:
        return _cause(reason, status)
    if status.get("phase") == "Unknown" or reason == "NodeLost":
        return _cause(Reason.NODE_LOST, status, otherwise="The node does not report; the pod's state is unknown.")
    if ended.get("reason") == "ContainerStatusUnknown":
        return _cause("ContainerStatusUnknown", ended)
    return None


def _last_state(status: Object, container: Object, node: str | None) -> dict[str, Any]:
    """Return what explains an end after the pod is gone. Only known fields: an object may be large."""
    conditions = [
        _some(condition, "type", "status", "reason", "message", "lastTransitionTime")
        for condition in _items(status.get("conditions"))
    ]
    states = {
        name: _some(_map(state), "reason", "message", "exitCode", "signal", "startedAt", "finishedAt")
        for name, state in _map(container.get("state")).items()
        if name in ("waiting", "running", "terminated")
    }
    found = {
        **_some(status, "phase", "reason", "message"),
        "node": node,
        "conditions": conditions,
        "container": states,
        "imageId": _short(container.get("imageID")),
    }
    return {k: v for k, v in found.items() if v}


def in_bytes(quantity: Any) -> int | None:
    """Return a Kubernetes quantity such as ``256Mi`` in bytes, or None for anything else."""
    found = _QUANTITY.fullmatch(quantity) if isinstance(quantity, str) else None
    if found is None:
        return quantity if type(quantity) is int else None
    number, binary, decimal = found.groups()
    scale = 1024 ** ("KMGTPE".index(binary) + 1) if binary else 1000 ** (" kMGTPE".index(decimal or " "))
    return int(float(number) * scale)


def _main(status: Object) -> Object:
    containers = list(_items(status.get("containerStatuses")))
    return next((c for c in containers if c.get("name") in (RUNNER_CONTAINER, MAIN_CONTAINER)), _NOTHING)


def _ended(container: Object) -> Object:
    return _map(_map(container.get("state")).get("terminated"))


def _condition(status: Object, kind: str) -> Object:
    return next((c for c in _items(status.get("conditions")) if c.get("type") == kind), _NOTHING)


def _cause(reason: str, said: Object, otherwise: str = "") -> Cause:
    # Many kubelet errors have a reason and no text; the reason's own word is then all that there is.
    words = _text(said.get("message")) or otherwise or _text(said.get("reason")) or reason
    return Cause(reason[:80], words[:_LONGEST_MESSAGE])


def _some(value: Object, *names: str) -> dict[str, Any]:
    return {name: _short(value[name]) for name in names if isinstance(value.get(name), str | int)}


def _short(value: Any) -> str | int | None:
    if isinstance(value, str):
        return value[:_LONGEST_MESSAGE]
    return value if isinstance(value, int) else None


def _items(value: Any) -> Iterator[Object]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, Mapping))


def _map(value: Any) -> Object:
    return value if isinstance(value, Mapping) else _NOTHING


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(value or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
