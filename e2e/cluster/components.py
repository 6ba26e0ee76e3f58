"""How each process of the cluster is called. Pure: settings in, specs out."""

import hashlib
from pathlib import Path
from typing import Final

from .processes import Spec
from .programs import Programs
from .settings import API_PORT, CLUSTER_DOMAIN, NODE_IP, NODE_NAME, POD_CIDR, S3_PORT, SERVICE_CIDR, Settings

ETCD_URL: Final = "http://127.0.0.1:2379"
STOP_ORDER: Final = (
    ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler"),  # nobody restarts what we end next
    ("containerd", "kube-apiserver", "versitygw"),
    ("etcd",),  # last: the others still write to it
)
PORTS: Final = {
    "etcd": (2379, 2380),
    "kube-apiserver": (API_PORT,),
    "kubelet": (10248, 10250),
    "kube-proxy": (10249, 10256),
    "kube-controller-manager": (10257,),
    "kube-scheduler": (10259,),
    "versitygw": (S3_PORT,),
}


def etcd(settings: Settings, programs: Programs) -> Spec:
    """Return etcd. Without fsync by default: a test's data need not survive a power cut, and writes are far faster."""
    argv = [
        str(programs.path("etcd")),
        f"--data-dir={settings.state}/etcd",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]
    if not settings.fsync:
        argv.append("--unsafe-no-fsync")
    return Spec("etcd", tuple(argv))


def apiserver(settings: Settings, programs: Programs) -> Spec:
    """Return the API server, with the default admission plugins and the one that keeps kubelets to their own pods."""
    pki = settings.pki
    return Spec(
        "kube-apiserver",
        (
            str(programs.path("kube-apiserver")),
            f"--etcd-servers={ETCD_URL}",
            f"--bind-address={NODE_IP}",
            f"--advertise-address={NODE_IP}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
            f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            # The node's name resolves nowhere; without this `kubectl logs` fails.
            "--kubelet-preferred-address-types=InternalIP",
            # The aggregation layer; without it every controller logs a missing authority once a minute.
            f"--proxy-client-cert-file={pki}/front-proxy.crt",
            f"--proxy-client-key-file={pki}/front-proxy.key",
            f"--requestheader-client-ca-file={pki}/ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
        ),
        fingerprint=_fingerprint(*sorted(pki.glob("*.crt")), pki / "sa.key"),
    )


def controllers(settings: Settings, programs: Programs) -> tuple[Spec, ...]:
    """Return controller-manager, scheduler and proxy; alone in the cluster, so nothing to elect."""
    pki, config = settings.pki, settings.config

    def as_client(name: str, *, delegates: bool) -> list[str]:
        kubeconfig = f"{config}/{name}.kubeconfig"
        flags = ["kubeconfig"] + (["authentication-kubeconfig", "authorization-kubeconfig"] if delegates else [])
        return [str(programs.path(name)), *(f"--{flag}={kubeconfig}" for flag in flags)]

    manager = [
        *as_client("kube-controller-manager", delegates=True),
        "--bind-address=127.0.0.1",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        "--use-service-account-credentials",
        f"--cluster-cidr={POD_CIDR}",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
    scheduler = [
        *as_client("kube-scheduler", delegates=True),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
    proxy = [
        *as_client("kube-proxy", delegates=False),
        f"--cluster-cidr={POD_CIDR}",
        "--proxy-mode=iptables",
        f"--hostname-override={NODE_NAME}",
        f"--nodeport-addresses={NODE_IP}/32",
        "--metrics-bind-address=127.0.0.1:10249",
        "--healthz-bind-address=127.0.0.1:10256",
        # Zero means 'leave the kernel's value': a VM without CAP_SYS_RESOURCE may not set them.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--iptables-min-sync-period=100ms",
    ]
    return tuple(
        Spec(name, tuple(argv), fingerprint=_fingerprint(config / f"{name}.kubeconfig"))
        for name, argv in (("kube-controller-manager", manager), ("kube-scheduler", scheduler), ("kube-proxy", proxy))
    )


def containerd(settings: Settings) -> Spec:
    """Return our own containerd, beside whatever the machine runs."""
    config = settings.config / "containerd.toml"
    return Spec(
        "containerd", ("containerd", "--config", str(config), "--log-level", "warn"), fingerprint=_fingerprint(config)
    )


def kubelet(settings: Settings, programs: Programs) -> Spec:
    """Return the kubelet."""
    config = settings.config
    return Spec(
        "kubelet",
        (
            str(programs.path("kubelet")),
            f"--config={config}/kubelet.json",
            f"--kubeconfig={config}/kubelet.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_IP}",
            f"--root-dir={settings.state}/kubelet",
            f"--cert-dir={settings.pki}",
        ),
        fingerprint=_fingerprint(config / "kubelet.json", config / "kubelet.kubeconfig", config / "resolv.conf"),
    )


def s3(settings: Settings, programs: Programs, credentials: Path) -> Spec:
    """Return the S3 server. Its keys reach it by the environment: a command line is readable to everyone."""
    environment = dict(line.split("=", 1) for line in credentials.read_text().split())
    data = settings.state / "s3"
    return Spec(
        "versitygw",
        (str(programs.path("versitygw")), "--port", f"{NODE_IP}:{S3_PORT}", "--quiet", "posix", str(data)),
        environment=environment,
        fingerprint=_fingerprint(credentials),
    )


def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()[:16]
