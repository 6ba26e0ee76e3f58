"""Tasks, Runs, Queues and WorkerPools in memory, held to the rules that an API server holds them to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid4, uuid5

from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.kube.reading import read_task
from windlass_operator.resources import names
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.resources.queue import QueueSpec
from windlass_operator.resources.run import RunSpec
from windlass_operator.resources.task import TaskSpec
from windlass_operator.resources.worker_pool import WorkerPoolSpec

DEFAULT_NAMESPACE: Final = "default"
_KINDS: Final = (names.TASK_KIND, names.RUN_KIND, names.QUEUE_KIND, names.WORKER_POOL_KIND)
LOCAL_IMAGE: Final = "local"
"""What stands for the image in the versions of Tasks: the code of this machine."""

Key = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an object that was applied.

    Attributes:
        body: The object as it is kept now.
        changed: Whether its spec is another one than before.
        replaced: The Run of the same name whose place it took.
    """

    body: dict[str, Any]
    changed: bool
    replaced: dict[str, Any] | None = None


class LocalResources:
    """What an API server would keep of our resources."""

    def __init__(self) -> None:
        self._objects: dict[Key, dict[str, Any]] = {}
        self._marks: dict[Key, str] = {}

    def apply(self, body: Mapping[str, Any]) -> Applied:
        """Create or change an object.

        A Run whose spec asks for something else takes the place of the old one, which counts as deleted: in a cluster
        the change would be refused.

        Raises:
            ResourceInvalidError: It has no kind of ours, or no good name, or its Run spec cannot be read.
            TaskInvalidError: A Task that cannot be run, here or anywhere.
        """
        kind, namespace, name = key = key_of(body)
        spec = body.get("spec")
        if kind == names.TASK_KIND:
            snapshot_of(body)
            mark = content_hash(TaskSpec.from_object(spec, at="spec").to_object())
            uid = str(uuid5(NAMESPACE_URL, f"{namespace}/{name}"))
        elif kind in (names.QUEUE_KIND, names.WORKER_POOL_KIND):
            model = QueueSpec if kind == names.QUEUE_KIND else WorkerPoolSpec
            mark = content_hash(model.from_object(spec, at="spec").to_object())
            # Another one with each start: the ledger takes what is new for news, whatever it saw before.
            before = self._objects.get(key)
            uid = before["metadata"]["uid"] if before else str(uuid4())
        else:
            read = RunSpec.from_object(spec, at="spec")
            mark = content_hash([read.asked_for(), read.cancel])
            # The same after a restart, when nothing here remembers the Run and the ledger does.
            uid = str(uuid5(NAMESPACE_URL, f"{namespace}/{name}/{content_hash(read.asked_for())}"))
        old = self._objects.get(key)
        if old is not None and old["metadata"]["uid"] == uid and self._marks.get(key) == mark:
            return Applied(old, changed=False)
        same = old is not None and old["metadata"]["uid"] == uid
        generation = old["metadata"]["generation"] + 1 if old is not None and same else 1
        given = body.get("metadata") or {}
        metadata = {**given, "namespace": namespace, "uid": uid, "generation": generation}
        status = old.get("status") if old is not None and same else None
        made = {**body, "metadata": metadata, "spec": dict(spec or {}), "status": status or {}}
        self._objects[key], self._marks[key] = made, mark
        return Applied(made, changed=True, replaced=None if same else old)

    def remember_run(self, namespace: str, name: str, uid: str) -> None:
        """Keep a place for a Run that the ledger knows from an earlier time: it does not count as deleted."""
        key = (names.RUN_KIND, namespace, name)
        if key not in self._objects:
            metadata = {"name": name, "namespace": namespace, "uid": uid, "generation": 1}
            self._objects[key] = {"metadata": metadata, "spec": {"taskRef": {"name": "remembered"}}, "status": {}}

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Return an object, or None."""
        return self._objects.get((kind, namespace, name))

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind."""
        return [body for (of, _, _), body in self._objects.items() if of == kind]

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> dict[str, Any] | None:
        """Delete an object and return it; None if there is none, or one of another UID."""
        found = self._objects.get((kind, namespace, name))
        if found is None or uid not in (None, found["metadata"]["uid"]):
            return None
        self._marks.pop((kind, namespace, name), None)
        return self._objects.pop((kind, namespace, name))

    def set_status(self, kind: str, namespace: str, name: str, uid: str, status: Mapping[str, Any]) -> bool:
        """Write a status; False if the object is gone or is another one of that name."""
        found = self._objects.get((kind, namespace, name))
        if found is None or found["metadata"]["uid"] != uid:
            return False
        found["status"] = dict(status)
        return True


def key_of(body: Mapping[str, Any]) -> Key:
    """Return kind, namespace and name of an object.

    Raises:
        ResourceInvalidError: They are not those of a resource that local mode knows.
    """
    kind, version = body.get("kind"), body.get("apiVersion")
    if kind not in _KINDS or version != names.API_VERSION:
        raise ResourceInvalidError(
            f"{str(version)[:80]} {str(kind)[:80]} is nothing that local mode knows. It takes Tasks, Runs, Queues "
            f"and WorkerPools of {names.API_VERSION}.",
            field="kind",
        )
    metadata = body.get("metadata")
    found = metadata if isinstance(metadata, Mapping) else {}
    name, namespace = found.get("name"), found.get("namespace") or DEFAULT_NAMESPACE
    for field, text in (("name", name), ("namespace", namespace)):
        if not isinstance(text, str) or not names.is_object_name(text):
            raise ResourceInvalidError(
                f"metadata.{field}: {str(text)[:80]!r} is no name. Use small letters, digits, - and .",
                field=f"metadata.{field}",
            )
    return str(kind), str(namespace), str(name)


def snapshot_of(body: Mapping[str, Any]) -> TaskSnapshot:
    """Return the snapshot of a Task as local mode runs it.

    Raises:
        TaskInvalidError: It cannot be run as it is written, or not here.
    """
    snapshot = read_task(body, LOCAL_IMAGE)
    if snapshot.entrypoint is None:
        raise TaskInvalidError(
            "spec.command: a container task needs a container, and local mode has none. Try it in a cluster, or give "
            "the Task an entrypoint.",
            field="spec.command",
        )
    return snapshot
