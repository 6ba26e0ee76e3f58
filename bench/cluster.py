"""On the cluster: fresh pods and pods kept ready beside bare ones, 60 at once, writes and memory. Windlass is there."""

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.cluster_objects import (
    IMPORTS,
    NAMESPACE,
    NOW,
    SOURCE,
    bare,
    create,
    job,
    kubectl,
    namespace,
    pod,
    printed,
    result,
    run,
    run_of,
    task,
)
from bench.report import Figure, figure

_STANDBY = 2
"""Pods that are kept ready: while one is being replaced there is another."""
_OWN = {"requests": {"cpu": "10m", "memory": "33Mi"}}
"""Others than the first Task's: with the same, its runs would take the pods that are kept ready."""
_IMPORTS = 2.0
"""Seconds that a pod which runs needs at most until it waits for work."""
_STEPS = """
import time
from windlass import step, task
@step
def tick(n):
    return n
@task
def main():
    times = []
    for n in range(300):
        began = time.perf_counter()
        tick(n)
        times.append((time.perf_counter() - began) * 1000)
    return times[20:]
"""


def main() -> list[Figure]:
    """Measure."""
    with namespace():
        create(task("first", SOURCE))
        create(task("steps", _STEPS))
        create(task("ready", SOURCE, standby=_STANDBY, resources=_OWN))
        run_of("first", "warm-up")
        return [*_fresh(10), _standby(15), _steps(), *_crowd(60), *_memory()]


def _fresh(count: int) -> list[Figure]:
    """Fresh pods in turn: a run, then a bare pod, and a Job, of the same image that print the time."""
    ours, pods, jobs = [], [], []
    for n in range(count):
        ours.append(run_of("first", f"pair-{n}"))
        pods.append(bare(pod(f"bare-{n}", NOW), f"bare-{n}"))
        jobs.append(bare(job(f"bare-{n}", NOW), f"job/bare-{n}"))
    name = "Run created → first line of user code, fresh pod"
    return [
        figure(name, ours, "s", goal="<=0.5"),
        figure(name, ours, "s", peer=("bare pod, python -c print", pods), goal="ratio<=2"),
        figure(name, ours, "s", peer=("bare Job, python -c print", jobs)),
    ]


def _standby(count: int) -> Figure:
    """Pods that were kept ready, in turn with bare ones. Each run waits until its pod has waited for a while."""
    ours, theirs = [], []
    for n in range(count):
        _until_ready()
        ours.append(run_of("ready", f"ready-{n}") * 1000)
        theirs.append(bare(pod(f"ready-bare-{n}", NOW), f"ready-bare-{n}") * 1000)
    return figure(
        "single-use warm pod: Run created → first user line",
        ours,
        "ms",
        peer=("bare pod, python -c print", theirs),
        goal="<=20",
    )


def _until_ready() -> None:
    until = time.monotonic() + 60
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=windlass.dev/task%3Dready"
    while time.monotonic() < until:
        pods = json.loads(kubectl("get", "--raw", path))["items"]
        if sum(one["status"].get("phase") == "Running" for one in pods) == _STANDBY:
            time.sleep(_IMPORTS)
            return
        time.sleep(0.2)
    raise RuntimeError("no pods were kept ready")


def _steps() -> Figure:
    began = time.monotonic()
    create(run("steps-1", "steps"))
    times = result("steps-1", began + 60)
    return figure("durable step, sequential, in the cluster", times, "ms", goal="<=1.2")


def _crowd(count: int) -> list[Figure]:
    """Runs at once against bare pods that do the same imports, created the same way."""
    writes = kube_writes()
    ours = _last_line(
        [run(f"crowd-{n}", "first") for n in range(count)], lambda name: result(name, time.monotonic() + 180)
    )
    per_run = (kube_writes() - writes) / count
    bare_pods = _last_line([pod(f"crowd-bare-{n}", IMPORTS) for n in range(count)], lambda name: printed(name, 180))
    jobs = _last_line([job(f"crowd-bare-{n}", IMPORTS) for n in range(count)], lambda name: printed(f"job/{name}", 180))
    return [
        figure(
            f"{count} runs at once, last first line",
            [ours],
            "s",
            peer=("bare pods, same imports", [bare_pods]),
            goal="ratio<=1.25",
        ),
        figure(f"{count} runs at once, last first line", [ours], "s", peer=("bare Jobs, same imports", [jobs])),
        figure("Kubernetes writes per fresh-pod run, the node's own included", [per_run], "writes"),
    ]


def _memory() -> list[Figure]:
    figures = []
    for component in ("operator", "api"):
        deployment = f"deploy/windlass-{component}"
        text = kubectl("exec", "-n", "windlass-system", deployment, "--", "cat", "/proc/1/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found, "Linux has VmRSS"
        figures.append(figure(f"memory of the {component}", [int(found.group(1)) / 1024], "MiB"))
    return figures


def _last_line(objects: list[dict[str, Any]], said: Callable[[str], float]) -> float:
    """Return the seconds from the creation of objects, eight at a time, to the last one's first line.

    Args:
        objects: To be created.
        said: Returns the time of the first line of an object with this name, once it is there.
    """
    began = time.time()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, objects))
    return max(said(one["metadata"]["name"]) for one in objects) - began


def kube_writes(*apart: str) -> float:
    """Return how many writes the API server has served, Leases, reviews and these resources apart."""
    text = kubectl("get", "--raw", "/metrics")
    pattern = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
    wanted = ('verb="POST"', 'verb="PUT"', 'verb="PATCH"', 'verb="DELETE"')
    resources = ("leases", "subjectaccessreviews", "tokenreviews", *apart)
    skipped = [f'resource="{resource}"' for resource in resources]
    return sum(
        float(value)
        for labels, value in pattern.findall(text)
        if any(w in labels for w in wanted) and not any(s in labels for s in skipped)
    )
