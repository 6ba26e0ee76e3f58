"""Keys, certificates and kubeconfigs. Made once; what is there is kept, so that a repair keeps every client's trust."""

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import command
from .settings import API_PORT, API_SERVICE_IP, CLUSTER_DOMAIN, NODE_IP, NODE_NAME, Settings

_DAYS: Final = "3650"


@dataclass(frozen=True)
class Identity:
    """One certificate: who, and which names it may serve under."""

    name: str
    subject: str
    names: str = ""


_API_NAMES: Final = ",".join(
    [
        *(f"DNS:kubernetes{rest}" for rest in ("", ".default", ".default.svc", f".default.svc.{CLUSTER_DOMAIN}")),
        "DNS:localhost",
        "IP:127.0.0.1",
        f"IP:{NODE_IP}",
        f"IP:{API_SERVICE_IP}",
    ]
)
IDENTITIES: Final = (
    Identity("apiserver", "/CN=kube-apiserver", _API_NAMES),
    Identity("apiserver-to-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
    Identity("front-proxy", "/CN=front-proxy-client"),
    Identity("admin", "/O=system:masters/CN=windlass-admin"),
    Identity("kubelet", f"/O=system:nodes/CN=system:node:{NODE_NAME}", f"DNS:{NODE_NAME},IP:{NODE_IP}"),
    Identity("kube-controller-manager", "/CN=system:kube-controller-manager"),
    Identity("kube-scheduler", "/CN=system:kube-scheduler"),
    Identity("kube-proxy", "/CN=system:kube-proxy"),
)
_CLIENTS: Final = ("admin", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")


def ensure(settings: Settings) -> None:
    """Make every key, certificate and kubeconfig that is missing."""
    pki = settings.pki
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (pki / "ca.crt").exists():
        # Children of an older authority would be refused by everyone: begin with an empty folder.
        for leftover in pki.iterdir():
            leftover.unlink()
        _key(pki / "ca.key")
        _openssl(
            ["req", "-x509", "-new", "-key", pki / "ca.key", "-subj", "/CN=windlass-cluster-ca", "-days", _DAYS],
            pki / "ca.crt",
        )
    if not (pki / "sa.pub").exists():
        _key(pki / "sa.key")
        _openssl(["pkey", "-in", pki / "sa.key", "-pubout"], pki / "sa.pub")
    for identity in IDENTITIES:
        if not (pki / f"{identity.name}.crt").exists():
            _sign(pki, identity)
    for client in _CLIENTS:
        write_private(settings.config / f"{client}.kubeconfig", kubeconfig(pki, client))


def _key(path: Path) -> None:
    # Elliptic: seven RSA keys take a second, seven of these nothing.
    _openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], path)


def _sign(pki: Path, identity: Identity) -> None:
    key, request = pki / f"{identity.name}.key", pki / f"{identity.name}.csr"
    extensions = pki / f"{identity.name}.ext"
    _key(key)
    _openssl(["req", "-new", "-key", key, "-subj", identity.subject], request)
    extensions.write_text(
        f"subjectAltName={identity.names or f'DNS:{identity.name}'}\nextendedKeyUsage=clientAuth,serverAuth\n"
    )
    # A random serial: the file that openssl counts in would be torn by a crash, and no certificate could be made again.
    serial: list[str | Path] = ["-set_serial", f"0x{secrets.token_hex(16)}", "-days", _DAYS]
    sign = ["x509", "-req", "-in", request, "-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", *serial]
    _openssl([*sign, "-extfile", extensions], pki / f"{identity.name}.crt")
    request.unlink()
    extensions.unlink()


def _openssl(arguments: list[str | Path], output: Path) -> None:
    """Write beside and rename: a file that is there is whole."""
    scratch = output.with_suffix(".tmp")
    command.run(["openssl", *arguments, "-out", scratch], what=f"openssl for {output.name}")
    scratch.chmod(0o600)
    scratch.replace(output)


def kubeconfig(pki: Path, client: str) -> str:
    """Return a kubeconfig that holds its certificates, so that the file can be copied anywhere on the machine."""

    def inline(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    server = {"server": f"https://{NODE_IP}:{API_PORT}", "certificate-authority-data": inline("ca.crt")}
    user = {"client-certificate-data": inline(f"{client}.crt"), "client-key-data": inline(f"{client}.key")}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "windlass", "cluster": server}],
            "users": [{"name": client, "user": user}],
            "contexts": [{"name": "windlass", "context": {"cluster": "windlass", "user": client}}],
            "current-context": "windlass",
        },
        indent=2,
    )


def write_private(path: Path, text: str) -> None:
    """Write a file that only root may read, unless it holds just this already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() == text:
        return
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.touch(mode=0o600)
    scratch.write_text(text)
    scratch.replace(path)
