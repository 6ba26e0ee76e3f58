"""Names inside a runner pod, shared by the builder, the check of templates and the reader of pods."""

from collections.abc import Mapping
from typing import Any, Final

from windlass_operator.resources.names import POOL_LABEL, PREFIX

POD_KEY_LABEL: Final = f"{PREFIX}pod-key"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
RUNNER_CONTAINER: Final = "runner"
"""The only container of a Python task's pod; of a container task's, the sidecar."""
MAIN_CONTAINER: Final = "main"
"""Runs the command of a container task."""
SHIM_CONTAINER: Final = "shim"
"""Copies the shim into the shared folder of a container task's pod, before the other two."""

CREDENTIAL_SECRET: Final = "windlass-runner"  # noqa: S105 - the name of a Secret
CREDENTIAL_KEY: Final = "credential"

RESERVED_ENV: Final = ("WINDLASS_", "POD_")
"""What the names of the runner's own variables begin with."""


def label_value(name: str) -> str:
    """Return a name as the value of a label: at most 63 characters, and not every one may be the last."""
    return name[:63].rstrip("-._")


def secret_of(entry: Mapping[str, Any]) -> str | None:
    """Return the Secret that a variable takes its value from, or None."""
    source = entry.get("valueFrom")
    reference = source.get("secretKeyRef") if isinstance(source, Mapping) else None
    return str(reference.get("name")) if isinstance(reference, Mapping) else None


def pool_selector(name: str) -> str:
    """Return what finds the pods of a pool, as ``kubectl get pods -l`` takes it."""
    return f"{MANAGED_BY_LABEL}=windlass,{POOL_LABEL}={label_value(name)}"
