"""Fresh pods on the cluster: ours beside bare pods, Jobs and Argo Workflows, one by one and many at once.

Everybody's pod is of the runner's image, as restricted, with the same requests, and is created through the same proxy.
Every body must have run exactly once, and everything must be seen to have succeeded by whoever created it.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench import report
from bench.cluster_objects import NAMESPACE, create, get, kubectl, namespace, task
from bench.peers import argo
from bench.peers.pod_effects import PodEffects, pod_effects
from bench.peers.pod_figures import UNTUNED, Found, Turn, figures, table
from bench.peers.pod_kinds import ARGO, KINDS, TASK, Kind, body, our_body
from bench.peers.rounds import order
from e2e.cluster.settings import NODE_IP, Settings

_ONE_BY_ONE: Final = int(os.environ.get("WINDLASS_BENCH_PODS", "8"))
_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_CROWDS", "2"))
_CROWD: Final = 60
_PATIENCE: Final = 300.0
_LOOK: Final = 5.0
"""Seconds after which somebody looks whether one has failed; oftener would take time from the API server."""


def there() -> bool:
    """Tell whether the one-node cluster is up with Windlass in it; print what is missing."""
    found = kubectl("get", "deploy", "-A", "-o", "name", check=False).split()
    if "deployment.apps/windlass-api" in found and not Settings.from_environment().existing:
        return True
    print(
        "pods: not measured, there is no one-node cluster of this checkout with Windlass in it (`make demo` makes one)"
    )
    return False


def measure() -> list[report.Figure]:
    """Measure and return the figures."""
    with namespace(), pod_effects(NODE_IP) as effects, argo.installed():
        create(task(TASK, our_body(effects.code)))
        found = _everything(effects)
    print("\n".join(table(found)))
    return figures(found)


def _everything(effects: PodEffects) -> dict[str, Found]:
    """Return what was found, by kind."""
    argo.use(argo.TUNED)
    found = {name: Found() for name in (*KINDS, UNTUNED)}
    for name in KINDS:
        _turn(effects, name, "warm-up", 1)
    for number in range(_ONE_BY_ONE):
        for name in order(list(KINDS), number):
            found[name].alone.append(_turn(effects, name, f"alone-{number}", 1).first)
    for number in range(_ROUNDS):
        for name in order(list(KINDS), number):
            found[name].crowds.append(_turn(effects, name, f"crowd-{number}", _CROWD))
        argo.use(())
        _turn(effects, ARGO, f"untuned-warm-up-{number}", 1)
        found[UNTUNED].crowds.append(_turn(effects, ARGO, f"untuned-{number}", _CROWD))
        argo.use(argo.TUNED)
        _turn(effects, ARGO, f"tuned-warm-up-{number}", 1)
        told = ", ".join(f"{name} {one.crowds[-1].first:.1f} s" for name, one in found.items())
        print(f"crowd {number + 1} of {_ROUNDS}: {told}", flush=True)
    return found


def _turn(effects: PodEffects, name: str, prefix: str, count: int) -> Turn:
    """Create so many at once, wait until all are seen to have succeeded, and take them away again."""
    kind = KINDS[name]
    short = "".join(letter for letter in name.lower() if letter.isalpha())
    names = [f"{prefix}-{short}-{n}" for n in range(count)]
    bodies = [kind.make(one, body(one, effects.code, imports=count > 1)) for one in names]
    began, cpu = time.time(), pods_cpu()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, bodies))
    until = time.monotonic() + _PATIENCE
    while not effects.wait(names, _LOOK):
        _ended(kind, names, until)
    while not _ended(kind, names, until):
        time.sleep(0.1)
    ended, cpu = time.time(), pods_cpu() - cpu
    first = max(effects.times(names))
    _clear(kind)
    return Turn(first - began, ended - began, cpu / count)


def _ended(kind: Kind, names: list[str], until: float) -> bool:
    """Tell whether whoever created these sees that they have succeeded.

    Raises:
        RuntimeError: One has failed, or it is too late.
    """
    seen = {one["metadata"]["name"]: kind.ended(one.get("status") or {}) for one in get(kind.path)["items"]}
    failed = [name for name in names if seen.get(name, False) is None]
    if failed or time.monotonic() > until:
        raise RuntimeError(f"{kind.plural}: failed: {failed}; seen: {seen}")
    return all(seen.get(name) for name in names)


def pods_cpu(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the seconds of CPU that all pods of the node have used so far, those that are gone included."""
    old, new = root / "cpuacct/kubepods/cpuacct.usage", root / "kubepods/cpu.stat"
    if old.exists():
        return int(old.read_text()) / 1e9
    return int(new.read_text().partition("usage_usec ")[2].split()[0]) / 1e6


def _clear(kind: Kind) -> None:
    """Take away what there is, so that the next one finds the same node as this one did.

    What is still to be written to disk is, too: Argo copies its executor, 110 MB, into each pod.
    """
    group = kind.path.split("/")[2] if kind.path.startswith("/apis/") else ""
    kubectl("delete", f"{kind.plural}.{group}".rstrip("."), "--all", "-n", NAMESPACE)
    kubectl("delete", "pods", "--all", "-n", NAMESPACE)
    os.sync()
