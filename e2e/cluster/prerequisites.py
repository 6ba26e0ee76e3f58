"""What the machine must have before a cluster can start, each with an error that says how to get it."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import command
from .errors import ClusterError
from .progress import stage

_NEEDED: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "/bin/busybox": "busybox-static",
    "ip": "iproute2",
    "openssl": "openssl",
    "modprobe": "kmod",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
"""What must be there, and the Debian package that brings it.

Asked by program and not by package: a machine with Docker's own containerd keeps it.
"""
_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
_LISTS_STALE_S: Final = 24 * 3600
_POLICY: Final = Path("/usr/sbin/policy-rc.d")


def check() -> None:
    """Check everything and install the Debian packages that are missing.

    Raises:
        ClusterError: Something is missing that only a person can provide.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # `python3` of another distribution may be older than the project's
        raise ClusterError(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}",
            todo="run it as `python3.11 -m e2e.cluster up`",
        )
    require_root()
    _install_missing_packages()
    _require_kernel_features()


def require_root() -> None:
    """Stop with an error unless we are root, and make sure that root finds its programs."""
    # root's PATH may lack sbin when it was entered by `su`.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{_SBIN}"
    if os.geteuid() != 0:
        raise ClusterError(
            "a cluster needs root: it mounts, makes network devices and runs containers",
            todo="run it with sudo, on a machine or VM made for tests; or use a cluster you have: "
            "`WINDLASS_CLUSTER=existing KUBECONFIG=… ` (see e2e/cluster/README.md)",
        )


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are not there."""
    return sorted({package for thing, package in _NEEDED.items() if not _present(thing)})


def _present(thing: str) -> bool:
    return Path(thing).exists() if thing.startswith("/") else shutil.which(thing) is not None


def _install_missing_packages() -> None:
    packages = missing_packages()
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"this is not Debian (no apt-get), and these are missing: {', '.join(packages)}",
            todo="use Debian 12 or newer, or a cluster you have: WINDLASS_CLUSTER=existing (see e2e/cluster/README.md)",
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with stage(f"installed Debian packages: {' '.join(packages)}"):
        if _lists_are_stale():
            command.run(
                ["apt-get", "update", "-q"],
                what="apt-get update",
                environment=environment,
                todo="check the network and /etc/apt/sources.list*",
            )
        with _no_service_starts():
            # --no-remove: rather fail than take somebody's Docker away.
            command.run(
                ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--no-remove", *packages],
                what="apt-get install",
                environment=environment,
                todo=f"`apt-get update`, then by hand: `apt-get install {' '.join(packages)}`",
            )
    still = missing_packages()
    if still:
        raise ClusterError(
            f"apt-get installed {', '.join(still)}, but their programs are not there", todo="use Debian 12 or newer"
        )


def _lists_are_stale() -> bool:
    lists = [f.stat().st_mtime for f in Path("/var/lib/apt/lists").glob("*_Packages*")]
    return not lists or time.time() - max(lists) > _LISTS_STALE_S


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep Debian from starting containerd's own service, for this call only.

    invoke-rc.d asks /usr/sbin/policy-rc.d; 101 means 'not allowed'. A policy that is there stays.
    """
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _require_kernel_features() -> None:
    for setting, module in (
        ("/proc/sys/net/bridge/bridge-nf-call-iptables", "br_netfilter"),
        ("/sys/module/overlay", "overlay"),
    ):
        if not Path(setting).exists():
            command.succeeds(["modprobe", module])
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise ClusterError(
            "the kernel has no overlay file system", todo="`modprobe overlay`, or use a machine whose kernel has it"
        )
