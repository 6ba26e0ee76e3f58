"""The configuration files of the node: containerd, its network, the kubelet. Pure text builders and one writer."""

import json
from pathlib import Path
from typing import Any, Final

from .pki import write_private
from .settings import BRIDGE, CLUSTER_DOMAIN, DNS_IP, NODE_IP, POD_CIDR, Settings

PAUSE_IMAGE: Final = "docker.io/windlass/pause:dev"
_UNUSED_PLUGINS: Final = (
    "internal.v1.opt",  # makes /opt/containerd
    *(f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
    "tracing.processor.v1.otlp",
)
_RESOLVED: Final = Path("/run/systemd/resolve/resolv.conf")


def containerd(settings: Settings) -> str:
    """Return containerd's configuration."""
    disabled = ", ".join(f'"io.containerd.{plugin}"' for plugin in _UNUSED_PLUGINS)
    return f"""version = 2
root = "{settings.state}/containerd/root"
state = "{settings.state}/containerd/state"
disabled_plugins = [{disabled}]
[grpc]
  address = "{settings.containerd_socket}"
[ttrpc]
  address = "{settings.containerd_socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Lowering the OOM score needs CAP_SYS_RESOURCE, which root in a VM or container often lacks.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{settings.config}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{settings.runc_root}"
"""


def cni(settings: Settings) -> str:
    """Return the pod network: a plain bridge.

    No ipMasq: it costs two iptables calls per pod; one rule for all pods does it (see network.py).
    """
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(settings.run / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "windlass", "plugins": [bridge, portmap]}, indent=2)


def kubelet(settings: Settings) -> dict[str, Any]:
    """Return the kubelet's configuration."""
    pki, state = settings.pki, settings.state
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "podLogsDir": f"{state}/pod-logs",
        "volumePluginDir": f"{state}/kubelet/plugins-exec",
        "resolvConf": f"{settings.config}/resolv.conf",
        "clusterDNS": [DNS_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "cgroupDriver": "cgroupfs",  # works with and without systemd
        "failCgroupV1": False,
        "failSwapOn": False,
        "maxPods": 250,
        # Tests start pods by the dozen: the defaults (50 calls a second, one image at a time) are for shared clusters.
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 200,
        "eventBurst": 400,
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "syncFrequency": "10s",
        # Images come from the cache once; nothing could pull them again after a collection.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def resolv_conf() -> str:
    """Return name servers that a pod can reach: one on loopback would be the pod itself."""
    for candidate in (Path("/etc/resolv.conf"), _RESOLVED):
        if not candidate.exists():
            continue
        lines = candidate.read_text().splitlines()
        servers = [line for line in lines if line.startswith("nameserver") and not _is_loopback(line)]
        if servers:
            return "\n".join([*servers, *(line for line in lines if line.startswith(("search", "options")))]) + "\n"
    return ""


def _is_loopback(line: str) -> bool:
    address = line.split()[1] if len(line.split()) > 1 else "127.0.0.1"
    return address.startswith("127.") or address == "::1"


def write(settings: Settings) -> None:
    """Write all of them; a file that is unchanged is not touched."""
    write_private(settings.config / "containerd.toml", containerd(settings))
    write_private(settings.config / "cni" / "10-windlass.conflist", cni(settings))
    write_private(settings.config / "kubelet.json", json.dumps(kubelet(settings), indent=2))
    write_private(settings.config / "resolv.conf", resolv_conf())
    (settings.config / "resolv.conf").chmod(0o644)  # bind-mounted into every pod
