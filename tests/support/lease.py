"""A Lease in memory with the API server's rules: versions, conflicts, and faults on demand."""

import copy
from collections.abc import Callable
from typing import Any

from windlass_operator.kube.errors import AlreadyExistsError, KubeConflictError, KubeUnavailableError
from windlass_operator.kube.kinds import Kind

Object = dict[str, Any]


class LeaseServer:
    """Serves one Lease to any number of candidates.

    Attributes:
        lease: As stored, or None.
        down: While true, every call fails.
        before_write: Called once before the next write: another client that comes in between.
    """

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.down = False
        self.before_write: Callable[[], None] | None = None
        self._version = 0

    @property
    def holder(self) -> str | None:
        """Who holds the Lease."""
        found: str | None = (self.lease or {}).get("spec", {}).get("holderIdentity")
        return found

    def give_to(self, identity: str) -> None:
        """Write the Lease as another process would."""
        self._store({"metadata": {"name": "leader"}, "spec": {"holderIdentity": identity, "leaseTransitions": 4}})

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the Lease."""
        del kind, namespace, name
        self._check()
        return copy.deepcopy(self.lease)

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        """Store the Lease if there is none."""
        del kind, namespace
        self._check(writing=True)
        if self.lease is not None:
            raise AlreadyExistsError("exists")
        return self._store(body)

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Object) -> Object | None:
        """Merge, if the version is still the stored one."""
        del kind, namespace, name
        self._check(writing=True)
        if self.lease is None:
            return None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeConflictError("changed")
        spec = {k: v for k, v in {**self.lease["spec"], **body["spec"]}.items() if v is not None}
        return self._store({**self.lease, "spec": spec})

    def _store(self, lease: Object) -> Object:
        self._version += 1
        self.lease = copy.deepcopy({**lease, "metadata": {**lease["metadata"], "resourceVersion": str(self._version)}})
        return copy.deepcopy(self.lease)

    def _check(self, *, writing: bool = False) -> None:
        if self.down:
            raise KubeUnavailableError("down")
        if writing and self.before_write:
            act, self.before_write = self.before_write, None
            act()
