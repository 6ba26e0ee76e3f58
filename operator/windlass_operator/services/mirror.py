"""Resources that the ledger has a copy of: it follows them whatever events are lost, come twice, or come late."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from windlass_operator.domain.project import Project
from windlass_operator.ledger.database import Database
from windlass_operator.resources.base import ResourceInvalidError

log = structlog.get_logger()

Problem = tuple[str, str]
"""Code and message of what is wrong with a spec."""


class Objects(Protocol):
    """The objects of one kind. Implemented in ``kube`` and in ``local``."""

    def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all objects."""
        ...

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the object with this name; None only where the API server says that there is none."""
        ...

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the object is gone or is another one of that name."""
        ...


class Projects(Protocol):
    """Where namespaces are looked up."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...


class Mirror(ABC):
    """The ledger's copy of one kind of resource. Subclasses know the statements, and the status.

    Args:
        database: The ledger.
        projects: Namespaces.
        objects: The resources.
        changed: Called when the copy has changed.
    """

    kind: str
    """As in a manifest."""

    def __init__(self, database: Database, projects: Projects, objects: Objects, changed: Callable[[], None]) -> None:
        self._database = database
        self._projects = projects
        self._objects = objects
        self._changed = changed
        self._problems: dict[str, Problem] = {}
        self._shown: dict[str, tuple[int, Any]] = {}
        """Generation and status of each resource, as they were last seen or written."""

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a resource, or of its end. Level-triggered: seeing the same twice changes nothing.

        A spec that cannot be read changes nothing but the status: the one before it holds.
        """
        meta = body.get("metadata") or {}
        uid, name, namespace = str(meta.get("uid")), str(meta.get("name")), str(meta.get("namespace"))
        if deleted:
            if await self._objects.uid(namespace, name) != uid:
                await self._gone(uid)
            return
        found = meta.get("generation")
        generation = found if isinstance(found, int) else 0
        self._shown[uid] = generation, body.get("status")
        try:
            copied = await self._put(namespace, name, uid, generation, body.get("spec") or {})
        except ResourceInvalidError as error:
            self._problems[uid] = (error.code, error.message)
            log.warning("resource cannot be read", kind=self.kind, namespace=namespace, name=name, error=error.message)
            return
        self._problems.pop(uid, None)
        if copied:
            self._changed()

    async def resync(self) -> None:
        """Compare the ledger with the cluster, so that a missed event is made good."""
        listed = set()
        async for body in self._objects.each():
            listed.add(str((body.get("metadata") or {}).get("uid")))
            await self.observe(body)
        for row in await self._with_resource():
            if row["uid"] not in listed and await self._objects.uid(row["namespace"], row["name"]) != row["uid"]:
                await self._gone(row["uid"])

    async def _write(self, namespace: str, name: str, uid: str, generation: int, status: dict[str, Any]) -> None:
        """Write a status. One that finds nobody says that the resource has gone."""
        if await self._objects.show(namespace, name, uid, status):
            self._shown[uid] = generation, status
        else:
            await self._gone(uid)

    async def _gone(self, uid: str) -> None:
        self._shown.pop(uid, None)
        self._problems.pop(uid, None)
        if await self._drop(uid):
            self._changed()

    @abstractmethod
    async def _put(self, namespace: str, name: str, uid: str, generation: int, spec: Mapping[str, Any]) -> bool:
        """Copy a spec; True if the copy has changed.

        Raises:
            ResourceInvalidError: It cannot be read.
        """

    @abstractmethod
    async def _drop(self, uid: str) -> bool:
        """Forget a resource; True if it was known."""

    @abstractmethod
    async def _with_resource(self) -> Sequence[Mapping[str, Any]]:
        """Return ``uid``, ``namespace`` and ``name`` of all resources that are copied."""
