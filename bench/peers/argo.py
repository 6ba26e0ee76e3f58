"""Argo Workflows on the one-node cluster: built from its Go module, and installed from the manifests in it."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.cluster_objects import NAMESPACE, container, create, kubectl
from bench.peers.go_programs import ARGO
from e2e.cluster import archives, containers
from e2e.cluster.settings import Settings

TUNED: Final = ("--qps=50", "--burst=75")
"""What its documentation gives as an example for more load; 20 and 30 are the defaults."""
_SYSTEM: Final = "windlass-bench-argo"
_USER: Final = 8737
"""As in its own images."""
_EXECUTOR: Final = "argo-executor"
_EXECUTORS: Final = {
    "imagePullPolicy": "IfNotPresent",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
"""Of the two containers that it adds to each pod, which as they come no namespace with ``restricted`` lets in."""
_IMAGES: Final = {name: f"docker.io/windlass/bench-{name}:dev" for name in ("workflow-controller", "argoexec")}
_MANIFESTS: Final = (
    "manifests/base/crds/minimal",
    "manifests/base/workflow-controller",
    "manifests/cluster-install-no-crds/workflow-controller-rbac",
)
_DEPLOYMENT: Final = "deploy/workflow-controller"


def overlay(folders: list[str], arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a kustomization of its own manifests with our images. It is JSON, and so YAML.

    Args:
        folders: Of the manifests, as seen from the kustomization.
        arguments: Of the controller.
    """
    place = "/spec/template/spec/containers/0"
    changes: dict[str, Any] = {
        f"{place}/image": _IMAGES["workflow-controller"],
        f"{place}/imagePullPolicy": "IfNotPresent",
        f"{place}/args": ["--executor-image", _IMAGES["argoexec"], *arguments],
        # An image that is one file names no user.
        "/spec/template/spec/securityContext/runAsUser": _USER,
    }
    patches: dict[str, dict[str, Any]] = {
        "Deployment": changes,
        "ConfigMap": {"/data": {"executor": json.dumps(_EXECUTORS)}},
    }
    return {
        "namespace": _SYSTEM,
        "resources": folders,
        "patches": [
            {
                "target": {"kind": kind},
                "patch": json.dumps([{"op": "add", "path": path, "value": value} for path, value in wanted.items()]),
            }
            for kind, wanted in patches.items()
        ],
    }


def workflow(name: str, code: str) -> dict[str, Any]:
    """Return a Workflow of one container, the same as that of a bare pod, in a pod as restricted as that."""
    spec = {
        "entrypoint": "main",
        "serviceAccountName": _EXECUTOR,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "templates": [{"name": "main", "container": container(code)}],
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}


@contextmanager
def installed() -> Iterator[None]:
    """Keep the controller in the cluster for the duration of the block. The benches' namespace is there."""
    built = ARGO.built()
    for name, image in _IMAGES.items():
        _import(name, image, built / name)
    kubectl("delete", "namespace", _SYSTEM, "--ignore-not-found")
    create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _SYSTEM}})
    with tempfile.TemporaryDirectory(prefix="windlass-argo-") as place:
        folder = Path(place)
        # Its own folders are named relatively: kustomize takes no others.
        found = [os.path.relpath(built / name, folder) for name in _MANIFESTS]
        (folder / "kustomization.yaml").write_text(json.dumps(overlay(found)))
        try:
            kubectl("apply", "--server-side", "-k", str(folder))
            _executor_rights()
            yield
        finally:
            kubectl("delete", "-k", str(folder), "--ignore-not-found", "--wait=false", check=False)
            kubectl("delete", "namespace", _SYSTEM, "--wait=false")


def use(arguments: tuple[str, ...]) -> None:
    """Start the controller anew with these arguments beside those that it needs, and wait until it leads."""
    told = ["--executor-image", _IMAGES["argoexec"], *arguments]
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": told}]
    kubectl("patch", _DEPLOYMENT, "-n", _SYSTEM, "--type=json", "-p", json.dumps(patch))
    kubectl("rollout", "status", _DEPLOYMENT, "-n", _SYSTEM, "--timeout=120s")


def _executor_rights() -> None:
    """Let the executor, which runs beside each container, tell the controller results: its recommended role."""
    metadata = {"name": _EXECUTOR, "namespace": NAMESPACE}
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}]
    account = {"kind": "ServiceAccount", **metadata}
    reference = {"apiGroup": group, "kind": "Role", "name": _EXECUTOR}
    create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    binding = {"roleRef": reference, "subjects": [account]}
    create({"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, **binding})


def _import(name: str, image: str, program: Path) -> None:
    """Bring a program into the node as an image that is one file, as the cluster's own programs are."""
    settings = Settings.from_environment()
    content = program.parent.name
    if containers.imported(settings).get(image) == content:
        return
    with tempfile.TemporaryDirectory(dir=settings.cache, prefix=".image-") as scratch:
        archive = Path(scratch) / f"{name}.tar"
        # Pods name the program themselves: found by PATH, or as /bin/argoexec.
        archives.pack(archive, image, [archives.File(f"/bin/{name}", program)], [f"/bin/{name}"])
        containers.import_image(settings, image, archive, content)
