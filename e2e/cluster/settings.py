"""Where things lie and what they are called. Everything that the environment can change is read here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NODE_NAME: Final = "windlass-node"
NODE_IP: Final = "10.255.0.1"
"""The node's own address. It sits on ``lo``, so the cluster works without a network and is reachable from pods."""
POD_CIDR: Final = "10.244.0.0/16"
SERVICE_CIDR: Final = "10.96.0.0/16"
API_SERVICE_IP: Final = "10.96.0.1"
DNS_IP: Final = "10.96.0.10"
CLUSTER_DOMAIN: Final = "cluster.local"
API_PORT: Final = 6443
S3_PORT: Final = 7070
S3_BUCKET: Final = "windlass"
BRIDGE: Final = "cni0"
KUBERNETES_VERSION: Final = "v1.34.4"
PACKAGE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Settings:
    """One run's view of the environment."""

    checkout: Path
    """The checkout that asks. A live cluster belongs to exactly one."""
    state: Path
    cache: Path
    existing: bool
    """True with ``WINDLASS_CLUSTER=existing``: a cluster somebody else made, which we never start, change or end."""
    force: bool
    fsync: bool
    registry: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the variables that the README lists."""
        checkout = environment.get("WINDLASS_CHECKOUT") or str(PACKAGE.parents[1])
        cache = environment.get("WINDLASS_CACHE") or "~/.cache/windlass"
        return cls(
            checkout=Path(checkout).resolve(),
            state=Path(environment.get("WINDLASS_CLUSTER_DIR") or "/var/lib/windlass-cluster").resolve(),
            cache=Path(cache).expanduser().resolve(),
            existing=environment.get("WINDLASS_CLUSTER", "") == "existing",
            force=environment.get("FORCE", "") == "1",
            fsync=environment.get("WINDLASS_CLUSTER_FSYNC", "") == "1",
            registry=environment.get("IMAGE_REGISTRY", "").rstrip("/"),
        )

    @property
    def dot_cluster(self) -> Path:
        """The folder in the checkout that make targets read: kubeconfig and programs."""
        return self.checkout / ".cluster"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.dot_cluster / "kubeconfig"

    @property
    def run(self) -> Path:
        """Pid files and sockets. Short, because a socket's path may have 107 characters."""
        return self.state / "run"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components."""
        return self.state / "config"

    @property
    def containerd_socket(self) -> Path:
        """Our containerd's socket; Debian's own service keeps /run/containerd/containerd.sock."""
        return self.run / "containerd.sock"

    @property
    def runc_root(self) -> Path:
        """Where runc lists the containers. In our folder, so that ``down`` finds them even when containerd is dead."""
        return self.run / "runc"

    @property
    def volumes(self) -> Path:
        """The folders behind the persistent volumes."""
        return self.state / "volumes"
