"""Remove a cluster, alive, half dead, or left by a machine that was restarted."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from . import components, containers, network
from .errors import ClusterError
from .processes import Processes
from .settings import Settings

_CGROUPS = Path("/sys/fs/cgroup")
_CNI_RESULTS = Path("/var/lib/cni/results")
_FIXED_FOLDERS = (
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/usr/libexec/kubernetes/kubelet-plugins/volume/exec",
    "/usr/libexec/kubernetes/kubelet-plugins/volume",
    "/usr/libexec/kubernetes/kubelet-plugins",
    "/usr/libexec/kubernetes",
    "/var/log/containers",
    "/run/containerd/s",
    "/run/containerd",
)
"""The innermost first."""


def remove_everything(settings: Settings) -> None:
    """End all processes and containers, and remove the network and the state folder. Nothing there is fine too."""
    processes = Processes(settings.run, settings.logs)
    first, *rest = components.STOP_ORDER
    processes.stop(first)
    containers.end_all(settings)
    for group in rest:
        processes.stop(group)
    _wait_for_shims(settings)
    unmount(settings)
    network.remove()
    _remove_cgroups()
    _remove_log_links(settings)
    _remove_address_records()
    _remove_empty_folders()
    _remove_state(settings.state)


def repair_leftovers(settings: Settings) -> None:
    """After a restart of the machine: drop what described running things. Disks (etcd, images, volumes) stay."""
    containers.end_all(settings)
    unmount(settings)
    _remove_address_records()
    for folder in (settings.state / "containerd" / "state", settings.run):
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_shims(settings: Settings) -> None:
    deadline = time.monotonic() + 5
    while any(True for _ in containers.shims(settings)) and time.monotonic() < deadline:
        time.sleep(0.02)


def unmount(settings: Settings) -> None:
    """Detach every mount under the state folder, the innermost first."""
    # A mount may hide another: look again until nothing is left.
    for _ in range(10):
        points = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = [point for point in points if Path(point).is_relative_to(settings.state)]
        if not ours:
            return
        subprocess.run(["umount", "-l", *sorted(ours, reverse=True)], capture_output=True, check=False)


def _remove_cgroups() -> None:
    """Remove the kubelet's empty groups. rmdir refuses one that holds a process, so nobody else's can go."""
    for top in [*_CGROUPS.glob("kubepods"), *_CGROUPS.glob("*/kubepods")]:
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                continue


def _remove_log_links(settings: Settings) -> None:
    """Remove the links that the kubelet makes for log collectors; their folder cannot be configured."""
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(settings.state):
            link.unlink(missing_ok=True)


def _remove_address_records() -> None:
    """Remove what the CNI library remembers of our pods. Our network's name tells them from another one's."""
    for record in _CNI_RESULTS.glob("windlass-*-eth0"):
        container = record.name.removeprefix("windlass-").removesuffix("-eth0")
        record.unlink(missing_ok=True)
        (_CNI_RESULTS / f"cni-loopback-{container}-lo").unlink(missing_ok=True)


def _remove_empty_folders() -> None:
    """Remove the folders that the kubelet, containerd and CNI make at fixed places, as far as nobody else uses them."""
    socket = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
    if socket.is_socket():
        socket.unlink()
    for folder in _FIXED_FOLDERS:
        try:
            Path(folder).rmdir()
        except OSError:
            continue


def _remove_state(state: Path) -> None:
    """Remove the folder, but never through a mount that would not come off: behind it may lie somebody's disk."""
    mounted = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {state}/" in line]
    if mounted:
        raise ClusterError(
            f"{len(mounted)} mounts under {state} do not come off",
            todo=f"`mount | grep {state}`, `umount` them, `down`",
        )
    shutil.rmtree(state, ignore_errors=True)
    if state.exists():
        shutil.rmtree(state)  # again, and loudly
