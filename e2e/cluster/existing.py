"""A cluster that somebody else made (WINDLASS_CLUSTER=existing): it is looked at, and nothing in it is touched."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .command import tail
from .errors import ClusterError
from .progress import say


def up() -> None:
    """Check that the cluster answers, and say its version.

    Raises:
        ClusterError: There is no kubectl, no kubeconfig, or no answer.
    """
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise ClusterError("kubectl is not on PATH", todo="install kubectl, or put the checkout's .cluster/bin on PATH")
    kubeconfig = os.environ.get("KUBECONFIG", "")
    if not kubeconfig:
        raise ClusterError(
            "WINDLASS_CLUSTER=existing, but KUBECONFIG is not set: which cluster?",
            todo="for example `export KUBECONFIG=$HOME/.kube/config`; tests create and delete namespaces in it",
        )
    asked = [kubectl, "version", "--output=json", "--request-timeout=10s"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    version = _server_version(done.stdout)
    if done.returncode != 0 or not version:
        raise ClusterError(
            f"the cluster does not answer:\n{tail(done.stderr)}",
            where=kubeconfig,
            todo="`kubectl cluster-info` must work first",
        )
    say(f"using the existing cluster of {kubeconfig}: Kubernetes {version}")


def _server_version(output: str) -> str:
    try:
        return str(json.loads(output)["serverVersion"]["gitVersion"])
    except (ValueError, KeyError, TypeError):
        return ""


def loading_instructions(archives: Sequence[Path]) -> str:
    """Say how to bring archives into the clusters that people have."""
    kind = "\n".join(f"    kind load image-archive {path}" for path in archives)
    minikube = "\n".join(f"    minikube image load {path}" for path in archives)
    return (
        "the images are built; they are not in the cluster yet, because IMAGE_REGISTRY is not set.\n"
        f"  for kind:\n{kind}\n  for minikube:\n{minikube}\n"
        "  any other cluster: set IMAGE_REGISTRY=registry.example.com/team and run this again"
    )
