"""Bring the cluster up, repair it, take it down. The order of things lives here and nowhere else."""

import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import (
    addons,
    components,
    containers,
    existing,
    images,
    network,
    node_files,
    ownership,
    pki,
    prerequisites,
    programs,
    s3,
)
from .errors import ClusterError
from .kubeapi import ApiError, KubeApi
from .processes import Processes, boot_id
from .programs import Programs
from .progress import say, stage
from .settings import KUBERNETES_VERSION, NODE_NAME, Settings
from .teardown import remove_everything, repair_leftovers

_ALL: Final = tuple(name for group in components.STOP_ORDER for name in group)
_START_S: Final = 120.0
"""How long one part may take to start. It takes seconds; a machine busy with builds takes longer."""


def up(settings: Settings) -> None:
    """Make sure that a healthy cluster of this checkout runs."""
    started = time.monotonic()
    if settings.existing:
        existing.up()
        return
    prerequisites.check()
    with ownership.locked(settings):
        ownership.refuse_foreign(settings, "up")
        owner = ownership.foreign(settings)
        if owner:
            say(f"removing the cluster of {owner.checkout}, of {owner.since}")
            remove_everything(settings)
            _unlink_from_checkout(Path(owner.checkout))
            settings.state.mkdir(parents=True, exist_ok=True)
        built = programs.build_missing(settings)
        if not _is_healthy(settings, built):
            _start(settings, built)
            say(f"{time.monotonic() - started:7.1f} s  in all: Kubernetes {KUBERNETES_VERSION} is up")
        else:
            say(f"the cluster is up and healthy ({time.monotonic() - started:.1f} s)")
        _link_into_checkout(settings, built)
    say(f"use it: export KUBECONFIG={settings.kubeconfig} PATH={settings.dot_cluster}/bin:$PATH")


def _start(settings: Settings, built: Programs) -> None:
    processes = Processes(settings.run, settings.logs)
    _require_free_ports(processes)
    before = ownership.read(settings)
    if before and before.boot != boot_id():
        with stage("cleared what the machine's restart left behind"):
            repair_leftovers(settings)
    ownership.claim(settings)
    with stage("network, keys and configuration"):
        network.ensure()
        pki.ensure(settings)
        node_files.write(settings)
        s3.ensure_credentials(settings)
    with ThreadPoolExecutor() as pool:  # the images go in while the control plane starts
        node_side = pool.submit(_start_node_side, settings, built, processes)
        _start_control_plane(settings, built, processes)
        node_side.result()
    api = KubeApi(settings.pki)
    with stage("node is Ready"):
        asked = datetime.now(UTC).replace(microsecond=0)  # heartbeats carry whole seconds
        since = asked if processes.ensure(components.kubelet(settings, built)) else None
        addons.apply_all(settings, api)
        processes.wait(
            "a Ready node",
            lambda: node_ready(api, since) and default_account_exists(api),
            needs=("etcd", "kube-apiserver", "kube-controller-manager", "containerd", "kubelet"),
            timeout_s=_START_S,
        )
    with stage("storage, S3 and names"):
        addons.recycle_volumes(settings, api)
        processes.wait("the S3 server", s3.listens, needs=("versitygw",), timeout_s=_START_S)
        s3.ensure_bucket(settings)
        processes.wait(
            "an answer from CoreDNS", addons.name_resolves, needs=("kubelet", "kube-proxy"), timeout_s=_START_S
        )


def _start_control_plane(settings: Settings, built: Programs, processes: Processes) -> None:
    api = KubeApi(settings.pki)
    with stage("control plane"):
        processes.ensure(components.etcd(settings, built))
        processes.wait(
            "etcd", lambda: _listens("127.0.0.1", 2379), needs=("etcd",), timeout_s=_START_S, todo=_ETCD_TODO
        )
        processes.ensure(components.apiserver(settings, built))
        processes.wait("the API server", api.ready, needs=("etcd", "kube-apiserver"), timeout_s=_START_S)
        for spec in components.controllers(settings, built):
            processes.ensure(spec)


_ETCD_TODO: Final = (
    "its data may be torn (by default it does not wait for the disk, see WINDLASS_CLUSTER_FSYNC): "
    "`python3 -m e2e.cluster down`, then `up`: what was in the cluster is lost"
)


def _start_node_side(settings: Settings, built: Programs, processes: Processes) -> None:
    processes.ensure(components.s3(settings, built, settings.state / "s3.env"))
    processes.ensure(components.containerd(settings))
    processes.wait(
        "containerd", lambda: containers.runtime_answers(settings), needs=("containerd",), timeout_s=_START_S
    )
    images.import_cached(settings, built)


def _is_healthy(settings: Settings, built: Programs) -> bool:
    """Tell whether there is nothing to do. Cheap checks first; the whole takes a tenth of a second."""
    if not (settings.state / "s3.env").exists() or not (settings.pki / "admin.crt").exists():
        return False
    node_files.write(settings)
    processes, api = Processes(settings.run, settings.logs), KubeApi(settings.pki, timeout_s=2)
    specs = [
        components.etcd(settings, built),
        components.apiserver(settings, built),
        *components.controllers(settings, built),
        components.containerd(settings),
        components.kubelet(settings, built),
        components.s3(settings, built, settings.state / "s3.env"),
    ]
    checks: tuple[Callable[[], bool], ...] = (
        lambda: all(processes.is_current(spec) for spec in specs),
        network.is_ready,
        api.ready,
        lambda: node_ready(api),
        s3.listens,
        addons.name_resolves,
    )
    if not all(check() for check in checks):
        return False
    addons.recycle_volumes(settings, api)
    images.import_cached(settings, built)
    return True


def node_ready(api: KubeApi, since: datetime | None = None) -> bool:
    """Tell whether the node reports Ready, and a kubelet that was started at `since` has spoken itself.

    A dead kubelet leaves its last word standing, and it was 'Ready'.
    """
    try:
        node = api.get(f"/api/v1/nodes/{NODE_NAME}")
    except ApiError:
        return False
    taints = {taint["key"] for taint in node["spec"].get("taints", [])}
    conditions = {c["type"]: c for c in node.get("status", {}).get("conditions", [])}
    ready = conditions.get("Ready", {"status": "Unknown"})
    if ready["status"] != "True":
        return False
    if since and datetime.fromisoformat(ready["lastHeartbeatTime"]) < since:
        return False
    return not any(key.startswith("node.kubernetes.io/") for key in taints)


def default_account_exists(api: KubeApi) -> bool:
    """Tell whether a first pod would be admitted: its ServiceAccount is made by a controller, a moment later."""
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except ApiError:
        return False
    return True


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _require_free_ports(processes: Processes) -> None:
    alive, taken = processes.alive(), network.listening_ports()
    for name, ports in components.PORTS.items():
        for port in ports:
            if name not in alive and port in taken:
                raise ClusterError(
                    f"port {port} is taken, {name} needs it",
                    todo=f"see who has it: `ss -ltnp 'sport = :{port}'`; "
                    "another Kubernetes on this machine must be ended first",
                )


def _link_into_checkout(settings: Settings, built: Programs) -> None:
    """Put the kubeconfig and the matching kubectl and helm where make targets look."""
    (settings.dot_cluster / "bin").mkdir(parents=True, exist_ok=True)
    ignore = settings.dot_cluster / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    pki.write_private(settings.kubeconfig, pki.kubeconfig(settings.pki, "admin"))
    for name in ("kubectl", "helm"):
        link, target = settings.dot_cluster / "bin" / name, built.path(name)
        if not (link.is_symlink() and link.readlink() == target):
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def down(settings: Settings) -> None:
    """End the cluster and remove every trace of it but the cache."""
    if settings.existing:
        raise ClusterError(
            "WINDLASS_CLUSTER=existing: this cluster was not made here, so it is not ended here",
            todo="end it with the tool that made it; "
            "`helm uninstall -n windlass-system windlass` removes Windlass alone",
        )
    prerequisites.require_root()
    if not settings.state.exists():
        _unlink_from_checkout(settings.checkout)
        say("there is no cluster")
        return
    with ownership.locked(settings):
        ownership.refuse_foreign(settings, "down")
        owner = ownership.read(settings)
        with stage("the cluster is down"):
            remove_everything(settings)
        for checkout in {settings.checkout, Path(owner.checkout) if owner else settings.checkout}:
            _unlink_from_checkout(checkout)


def _unlink_from_checkout(checkout: Path) -> None:
    folder = checkout / ".cluster"
    (folder / "kubeconfig").unlink(missing_ok=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)


def status(settings: Settings) -> bool:
    """Print what runs; return whether all of it does."""
    if settings.existing:
        existing.up()
        return True
    owner, processes = ownership.read(settings), Processes(settings.run, settings.logs)
    if owner is None:
        say("there is no cluster; `python3 -m e2e.cluster up` makes one")
        return False
    prerequisites.require_root()  # the keys to ask it with are root's
    say(f"cluster of {owner.checkout}, since {owner.since}; state in {settings.state}")
    alive = processes.alive()
    for name in _ALL:
        say(f"  {name:<24} {f'runs, pid {alive[name].pid}' if name in alive else 'DEAD'}")
    api = KubeApi(settings.pki, timeout_s=2)
    healthy = {
        "node address": network.is_ready(),
        "node Ready": node_ready(api),
        "S3 server": s3.listens(),
        "names resolve": addons.name_resolves(),
    }
    for name, fine in healthy.items():
        say(f"  {name:<24} {'yes' if fine else 'NO'}")
    return set(_ALL) <= set(alive) and all(healthy.values())
