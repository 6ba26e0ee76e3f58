"""What the control plane must be permitted, as the chart's ``_rules.tpl`` grants it; a test compares the two."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from windlass_operator.kube.runner_names import CREDENTIAL_SECRET
from windlass_operator.resources.names import GROUP

Process = Literal["operator", "api"]
LEASE_NAME: Final = "windlass-operator"
"""Of the Lease by which one operator leads."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one resource.

    Attributes:
        verb: Such as ``get``.
        group: API group; empty for the core group.
        resource: Plural, with a subresource after a slash: ``pods/log``.
        name: Of the one object that it is for; empty for all.
        namespace: Empty for the whole cluster.
    """

    verb: str
    group: str
    resource: str
    name: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {what}{named} in {self.namespace or 'the cluster'}"


_Rule = tuple[str, str, str, str]
"""Group, resource, verbs, name."""

_IN_PROJECTS: Final[dict[Process, tuple[_Rule, ...]]] = {
    "operator": (
        (GROUP, "tasks", "get list watch", ""),
        (GROUP, "runs", "get list watch delete", ""),
        (GROUP, "approvals", "get list watch create patch delete", ""),
        (GROUP, "queues", "get list watch", ""),
        (GROUP, "workerpools", "get list watch", ""),
        (GROUP, "tasks/status", "patch", ""),
        (GROUP, "runs/status", "patch", ""),
        (GROUP, "approvals/status", "patch", ""),
        (GROUP, "queues/status", "patch", ""),
        (GROUP, "workerpools/status", "patch", ""),
        ("", "pods", "get list watch create patch delete", ""),
        ("", "pods/log", "get", ""),
        ("", "events", "get list", ""),
        ("", "secrets", "create", ""),
        ("", "secrets", "get delete", CREDENTIAL_SECRET),
        ("", "namespaces", "get", ""),
    ),
    "api": ((GROUP, "tasks", "get", ""), ("", "namespaces", "get", "")),
}
_CLUSTER_MODE: Final[dict[Process, tuple[_Rule, ...]]] = {
    "operator": (
        ("", "namespaces", "list watch", ""),
        ("apiextensions.k8s.io", "customresourcedefinitions", "list watch", ""),
    ),
    "api": (("authorization.k8s.io", "subjectaccessreviews", "create", ""),),
}
_LISTED_MODE: Final[dict[Process, tuple[_Rule, ...]]] = {
    "operator": (),
    "api": (("authorization.k8s.io", "localsubjectaccessreviews", "create", ""),),
}


def of(process: Process, namespaces: tuple[str, ...], release: str) -> Iterator[Permission]:
    """Yield everything that a process of an installation must be permitted.

    Args:
        process: Which.
        namespaces: The listed ones; empty for an installation that serves the whole cluster.
        release: Where the control plane runs.
    """
    mode = _LISTED_MODE if namespaces else _CLUSTER_MODE
    for namespace in namespaces or ("",):
        for rule in (*_IN_PROJECTS[process], *mode[process]):
            yield from _expanded(rule, namespace)
    if process == "operator":
        yield from _expanded(("coordination.k8s.io", "leases", "create", ""), release)
        yield from _expanded(("coordination.k8s.io", "leases", "get update patch", LEASE_NAME), release)
    else:
        yield from _expanded(("authentication.k8s.io", "tokenreviews", "create", ""), "")


def _expanded(rule: _Rule, namespace: str) -> Iterator[Permission]:
    group, resource, verbs, name = rule
    for verb in verbs.split():
        yield Permission(verb, group, resource, name, namespace)
