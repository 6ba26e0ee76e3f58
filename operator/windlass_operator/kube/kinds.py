"""The kinds of objects that Windlass touches, and where the API server serves them."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from windlass_operator.kube.errors import KubeInvalidError
from windlass_operator.resources import names

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A DNS subdomain. Checked because a name becomes a part of a path, where ``..`` would reach another resource."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    Attributes:
        group: API group; empty for the core group.
        version: Version that we read and write.
        plural: The name in the path.
        kind: The name in a manifest.
        namespaced: Whether objects live in a namespace.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of the collection, of one object, or of its subresource.

        Raises:
            KubeInvalidError: A name that no object can have.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace is not None:
            if not self.namespaced:
                raise KubeInvalidError(f"{self.kind} objects live in no namespace; {namespace!r} was given.")
            parts += ["namespaces", _segment(namespace)]
        parts.append(self.plural)
        if name is not None:
            if self.namespaced and namespace is None:
                raise KubeInvalidError(f"The namespace of {self.kind} {name!r} is missing.")
            parts.append(_segment(name))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


def _segment(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise KubeInvalidError(
            f"{name[:80]!r} is not a name of a Kubernetes object: use lower-case letters, digits, '-' and '.', "
            "at most 253 characters.",
            field="metadata.name",
        )
    return quote(name, safe="")


TASKS: Final = Kind(names.GROUP, names.VERSION, names.TASKS, names.TASK_KIND)
RUNS: Final = Kind(names.GROUP, names.VERSION, names.RUNS, names.RUN_KIND)
APPROVALS: Final = Kind(names.GROUP, names.VERSION, names.APPROVALS, names.APPROVAL_KIND)
QUEUES: Final = Kind(names.GROUP, names.VERSION, names.QUEUES, names.QUEUE_KIND)
WORKER_POOLS: Final = Kind(names.GROUP, names.VERSION, names.WORKER_POOLS, names.WORKER_POOL_KIND)
PODS: Final = Kind("", "v1", "pods", "Pod")
SECRETS: Final = Kind("", "v1", "secrets", "Secret")
NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
CORE_EVENTS: Final = Kind("", "v1", "events", "Event")
"""Read through the core group: only there can one select by the UID of what they are about."""
EVENTS: Final = Kind("events.k8s.io", "v1", "events", "Event")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEWS: Final = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
ACCESS_REVIEWS: Final = Kind(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
SELF_ACCESS_REVIEWS: Final = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
LOCAL_ACCESS_REVIEWS: Final = Kind(
    "authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview"
)
