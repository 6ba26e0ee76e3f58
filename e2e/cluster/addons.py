"""What a cluster needs beside Kubernetes itself: names and volumes. Pure builders; `apply_all` writes them."""

import secrets
import shutil
import socket
import struct
from typing import Any, Final

from .kubeapi import KubeApi
from .settings import CLUSTER_DOMAIN, DNS_IP, NODE_NAME, Settings

COREDNS_IMAGE: Final = "docker.io/windlass/coredns:dev"
VOLUMES: Final = ("local-1", "local-2", "local-3")
_DNS_LABELS: Final = {"k8s-app": "kube-dns"}
_COREFILE: Final = f"""\
.:1053 {{
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 5
    loadbalance
}}
"""


def dns() -> list[dict[str, Any]]:
    """Return CoreDNS with its rights and its Service."""
    meta = {"name": "coredns", "namespace": "kube-system"}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "windlass-cluster:coredns"}
    ports = [
        {"name": name, "protocol": protocol, "port": 53, "targetPort": 1053}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role["name"]},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role["name"]},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": _DNS_LABELS},
            "spec": {"clusterIP": DNS_IP, "selector": _DNS_LABELS, "ports": ports},
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": _dns_deployment()},
    ]


def _dns_deployment() -> dict[str, Any]:
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 1053, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 1053, "protocol": "TCP"},
        ],
        # No readiness probe: a kubelet that restarts holds a probed pod for not ready until it has probed it again, and
        # for that second the Service has no endpoint. `up` asks for a name before it says that the cluster is up.
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {
        "replicas": 1,
        "selector": {"matchLabels": _DNS_LABELS},
        "template": {"metadata": {"labels": _DNS_LABELS}, "spec": pod},
    }


def storage(settings: Settings) -> list[dict[str, Any]]:
    """Return the default StorageClass and its volumes.

    Static: a provisioner would be one more program to build, and tests claim one volume at a time.
    """
    meta = {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}]}
    found: list[dict[str, Any]] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": meta,
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    ]
    for name in VOLUMES:
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "local",
            "local": {"path": str(settings.volumes / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
        }
        found.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    return found


def apply_all(settings: Settings, api: KubeApi) -> None:
    """Bring every add-on to the state that this checkout describes."""
    for name in VOLUMES:
        _fresh_folder(settings, name, keep=True)
    for resource in [*storage(settings), *dns()]:
        api.apply(resource)


def recycle_volumes(settings: Settings, api: KubeApi) -> list[str]:
    """Empty the volumes whose claim was deleted and offer them again; return their names.

    Kubernetes leaves a static volume Released for ever: the fourth database that a test installs would never start.
    """
    recycled = []
    for volume in api.get("/api/v1/persistentvolumes")["items"]:
        name = volume["metadata"]["name"]
        if name in VOLUMES and volume.get("status", {}).get("phase") == "Released":
            _fresh_folder(settings, name, keep=False)
            api.merge(f"/api/v1/persistentvolumes/{name}", {"spec": {"claimRef": None}})
            recycled.append(name)
    return recycled


def _fresh_folder(settings: Settings, name: str, *, keep: bool) -> None:
    folder = settings.volumes / name
    if not keep and folder.exists():
        # Moved away first: a folder half emptied by a crash must not be offered again.
        grave = settings.volumes / f".{name}-{secrets.token_hex(4)}"
        folder.rename(grave)
        shutil.rmtree(grave)
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o777)  # a pod without fsGroup writes here as its own user


def name_resolves(name: str = f"kubernetes.default.svc.{CLUSTER_DOMAIN}", timeout_s: float = 0.3) -> bool:
    """Ask the cluster's name service as a pod would, through the Service's address."""
    query = struct.pack(">HHHHHH", 0x5744, 0x0100, 1, 0, 0, 0)
    query += (
        b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack(">HH", 1, 1)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        try:
            client.sendto(query, (DNS_IP, 53))
            answer = client.recv(512)
        except OSError:
            return False
    _, flags, _, answers, _, _ = struct.unpack(">HHHHHH", answer[:12])
    return bool(flags & 0x000F == 0 and answers > 0)
