"""Fresh pods on the cluster: ours beside bare pods, Jobs and Argo Workflows, one by one and many at once.

Everybody's pod is of the runner's image, as restricted, with the same requests, and is created through the same proxy.
What is measured ends with the first line of user code, which says the time. Ours and Argo's count when whoever created
them can read that they have succeeded, a bare pod when its time can be read.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from bench import report
from bench.cluster_objects import (
    IMPORTS,
    NAMESPACE,
    NOW,
    SOURCE,
    create,
    job,
    kubectl,
    pod,
    printed,
    result,
    run,
    task,
)
from bench.peers import argo
from bench.peers.go_programs import ARGO
from bench.peers.rounds import order

_ONE_BY_ONE: Final = int(os.environ.get("WINDLASS_BENCH_PODS", "8"))
_ROUNDS: Final = int(os.environ.get("WINDLASS_BENCH_CROWDS", "2"))
_CROWD: Final = 60
_PATIENCE: Final = 300.0
_TASK: Final = "first"
_ARGO: Final = "Argo Workflows"
_UNTUNED: Final = f"{_ARGO} as it comes"
_PODS, _JOBS = "bare pods", "bare Jobs"


@dataclass(frozen=True)
class Kind:
    """One way to get a pod.

    Attributes:
        make: Returns the object for a name and a line of Python; ours has its own Task's code.
        first: Waits for the first line of the pod of a name and returns its time.
        ended: Waits until those of these names can be seen to have succeeded.
    """

    make: Callable[[str, str], dict[str, Any]]
    first: Callable[[str], float]
    ended: Callable[[list[str]], None] = lambda _: None


_KINDS: Final = {
    "ours": Kind(lambda name, _: run(name, _TASK), lambda name: float(result(name, time.monotonic() + _PATIENCE))),
    _PODS: Kind(pod, lambda name: printed(name, _PATIENCE)),
    _JOBS: Kind(job, lambda name: printed(f"job/{name}", _PATIENCE)),
    _ARGO: Kind(argo.workflow, lambda name: printed(name, _PATIENCE), lambda names: argo.wait_for(names, _PATIENCE)),
}


def there() -> bool:
    """Tell whether the one-node cluster is up with Windlass in it; print what is missing."""
    found = kubectl("get", "deploy", "-A", "-o", "name", check=False).split()
    if "deployment.apps/windlass-api" in found:
        return True
    print("pods: not measured, there is no cluster with Windlass in it (`make demo` makes one)")
    return False


def measure() -> list[report.Figure]:
    """Measure and return the figures."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    try:
        with argo.installed():
            create(task(_TASK, SOURCE))
            found = _everything()
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    return figures(*found)


def _everything() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each one alone, and of each crowd's last, by kind."""
    argo.use(argo.TUNED)
    alone: dict[str, list[float]] = {name: [] for name in _KINDS}
    for name in _KINDS:
        _of(name, "warm-up", 1, NOW)
    for number in range(_ONE_BY_ONE):
        for name in order(list(_KINDS), number):
            alone[name].append(_of(name, f"alone-{number}", 1, NOW))
    crowds: dict[str, list[float]] = {name: [] for name in (*_KINDS, _UNTUNED)}
    for number in range(_ROUNDS):
        for name in order(list(_KINDS), number):
            crowds[name].append(_of(name, f"crowd-{number}", _CROWD, IMPORTS))
        argo.use(())
        _of(_ARGO, f"untuned-warm-up-{number}", 1, NOW)
        crowds[_UNTUNED].append(_of(_ARGO, f"untuned-{number}", _CROWD, IMPORTS))
        argo.use(argo.TUNED)
        _of(_ARGO, f"tuned-warm-up-{number}", 1, NOW)
        print(f"crowd {number + 1} of {_ROUNDS}")
    return alone, crowds


def _of(name: str, prefix: str, count: int, code: str) -> float:
    """Create so many at once; return the seconds until the last of them is in its first line."""
    kind = _KINDS[name]
    short = "".join(letter for letter in name.lower() if letter.isalpha())
    names = [f"{prefix}-{short}-{n}" for n in range(count)]
    bodies = [kind.make(one, code) for one in names]
    began = time.time()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, bodies))
    last = max(kind.first(one) for one in names)
    kind.ended(names)
    return last - began


def figures(alone: dict[str, list[float]], crowds: dict[str, list[float]]) -> list[report.Figure]:
    """Return ours beside each of the others, with the goals."""
    called = {
        _ARGO: f"{_ARGO} {ARGO.version.removeprefix('v')}",
        _UNTUNED: f"{_UNTUNED} {ARGO.version.removeprefix('v')}",
    }
    made = []
    for what, found, goals in (
        ("created → first line of user code, fresh pod", alone, {_PODS: "ratio<=2"}),
        (f"{_CROWD} at once, created → last first line", crowds, {_PODS: "ratio<=1.25", _ARGO: "ratio<=0.333"}),
    ):
        for peer, seconds in found.items():
            if peer != "ours":
                goal = goals.get(peer, "")
                made.append(report.figure(what, found["ours"], "s", peer=(called.get(peer, peer), seconds), goal=goal))
    return made
