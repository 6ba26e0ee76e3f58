"""On the cluster: fresh pods and pods kept ready beside bare ones, 60 at once, writes and memory. Windlass is there."""

import json
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.report import Figure, figure

_ROOT = Path(__file__).resolve().parents[1]
_NAMESPACE = "windlass-bench"
_IMAGE = "docker.io/windlass/runner:dev"
_NOW = "import time; print(time.time())"
_SOURCE = "import time\nfrom windlass import task\n@task\ndef main():\n    return time.time()\n"
_STANDBY = 2
"""Pods that are kept ready: while one is being replaced there is another."""
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
    _kubectl("delete", "namespace", _NAMESPACE, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    _create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE, "labels": labels}})
    try:
        _create(_task("first", _SOURCE))
        _create(_task("steps", _STEPS))
        _create(_task("ready", _SOURCE, standby=_STANDBY))
        _run_of("first", "warm-up")
        figures = [*_fresh(10), _standby(15), _steps(), *_crowd(60), *_memory()]
    finally:
        _kubectl("delete", "namespace", _NAMESPACE, "--wait=false")
    return figures


def _fresh(count: int) -> list[Figure]:
    """Fresh pods in turn: a run, then a bare pod, and a Job, of the same image that print the time."""
    ours, pods, jobs = [], [], []
    for n in range(count):
        ours.append(_run_of("first", f"pair-{n}"))
        pods.append(_bare(_pod(f"bare-{n}", _NOW), f"bare-{n}"))
        jobs.append(_bare(_job(f"bare-{n}", _NOW), f"job/bare-{n}"))
    name = "Run created → first line of user code, fresh pod"
    return [
        figure(name, ours, "s", goal="<=0.5"),
        figure(name, ours, "s", peer=("bare pod, python -c print", pods), goal="ratio<=2"),
        figure(name, ours, "s", peer=("bare Job, python -c print", jobs)),
    ]


def _standby(count: int) -> Figure:
    """Pods that were kept ready, in turn with bare ones. Each run waits until its pod has waited for a while."""
    ours, bare = [], []
    for n in range(count):
        _until_ready()
        ours.append(_run_of("ready", f"ready-{n}") * 1000)
        bare.append(_bare(_pod(f"ready-bare-{n}", _NOW), f"ready-bare-{n}") * 1000)
    return figure(
        "single-use warm pod: Run created → first user line",
        ours,
        "ms",
        peer=("bare pod, python -c print", bare),
        goal="<=20",
    )


def _until_ready() -> None:
    until = time.monotonic() + 60
    path = f"/api/v1/namespaces/{_NAMESPACE}/pods?labelSelector=windlass.dev/task%3Dready"
    while time.monotonic() < until:
        pods = json.loads(_kubectl("get", "--raw", path))["items"]
        if sum(pod["status"].get("phase") == "Running" for pod in pods) == _STANDBY:
            time.sleep(_IMPORTS)
            return
        time.sleep(0.2)
    raise RuntimeError("no pods were kept ready")


def _steps() -> Figure:
    began = time.monotonic()
    _create(_run("steps-1", "steps"))
    times = _result("steps-1", began + 60)
    return figure("durable step, sequential, in the cluster", times, "ms", goal="<=1.2")


def _crowd(count: int) -> list[Figure]:
    """Runs at once against bare pods that do the same imports, created the same way."""
    writes = kube_writes()
    began = time.time()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _create(_run(f"crowd-{n}", "first")), range(count)))
    lasts = [_result(f"crowd-{n}", time.monotonic() + 180) for n in range(count)]
    ours = max(lasts) - began
    per_run = (kube_writes() - writes) / count
    code = "import windlass_runner.main, windlass_runner.zygote, time; print(time.time())"
    began = time.time()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _create(_pod(f"crowd-bare-{n}", code)), range(count)))
    bare = max(_printed(f"crowd-bare-{n}", 180) for n in range(count)) - began
    began = time.time()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _create(_job(f"crowd-bare-{n}", code)), range(count)))
    jobs = max(_printed(f"job/crowd-bare-{n}", 180) for n in range(count)) - began
    return [
        figure(
            f"{count} runs at once, last first line",
            [ours],
            "s",
            peer=("bare pods, same imports", [bare]),
            goal="ratio<=1.25",
        ),
        figure(f"{count} runs at once, last first line", [ours], "s", peer=("bare Jobs, same imports", [jobs])),
        figure("Kubernetes writes per fresh-pod run, the node's own included", [per_run], "writes"),
    ]


def _memory() -> list[Figure]:
    figures = []
    for component in ("operator", "api"):
        deployment = f"deploy/windlass-{component}"
        text = _kubectl("exec", "-n", "windlass-system", deployment, "--", "cat", "/proc/1/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found, "Linux has VmRSS"
        figures.append(figure(f"memory of the {component}", [int(found.group(1)) / 1024], "MiB"))
    return figures


def _run_of(task: str, name: str) -> float:
    began = time.time()
    _create(_run(name, task))
    return float(_result(name, time.monotonic() + 60)) - began


def _bare(body: dict[str, Any], printer: str) -> float:
    began = time.time()
    _create(body)
    return _printed(printer, 60) - began


def _result(name: str, until: float) -> Any:
    path = f"/apis/windlass.dev/v1alpha1/namespaces/{_NAMESPACE}/runs/{name}"
    while time.monotonic() < until:
        status = json.loads(_kubectl("get", "--raw", path)).get("status") or {}
        if status.get("state") == "Succeeded":
            return status["result"]
        if status.get("state") in ("Failed", "TimedOut", "Cancelled"):
            raise RuntimeError(f"run {name}: {status}")
        time.sleep(0.1)
    raise RuntimeError(f"run {name} did not end in time: {status}")


def _printed(name: str, seconds: float) -> float:
    """Return the time that a pod, or a ``job/…``, has printed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = _kubectl("logs", name, "-n", _NAMESPACE, check=False).strip()
        if re.fullmatch(r"\d+\.\d+", text):
            return float(text)
        time.sleep(0.1)
    raise RuntimeError(f"{name} printed nothing in time")


def kube_writes(*apart: str) -> float:
    """Return how many writes the API server has served, Leases, reviews and these resources apart."""
    text = _kubectl("get", "--raw", "/metrics")
    pattern = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
    wanted = ('verb="POST"', 'verb="PUT"', 'verb="PATCH"', 'verb="DELETE"')
    resources = ("leases", "subjectaccessreviews", "tokenreviews", *apart)
    skipped = [f'resource="{resource}"' for resource in resources]
    return sum(
        float(value)
        for labels, value in pattern.findall(text)
        if any(w in labels for w in wanted) and not any(s in labels for s in skipped)
    )


def _task(name: str, source: str, **more: Any) -> dict[str, Any]:
    resources = {"requests": {"cpu": "10m", "memory": "32Mi"}}
    spec = {"image": _IMAGE, "entrypoint": f"{name}_module:main", "source": {"inline": source}, "resources": resources}
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Task",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {**spec, **more},
    }


def _run(name: str, task: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": _NAMESPACE}
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Run",
        "metadata": metadata,
        "spec": {"taskRef": {"name": task}},
    }


def _pod(name: str, code: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": _IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": _NAMESPACE}, "spec": spec}


def _job(name: str, code: str) -> dict[str, Any]:
    """Return a Job that makes just such a pod once."""
    metadata = {"name": name, "namespace": _NAMESPACE}
    spec = {"backoffLimit": 0, "template": {"spec": _pod(name, code)["spec"]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


class _Proxy:
    """One kubectl proxy: kubectl itself takes 50 ms to start, more than what is measured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._url: str | None = None
        self._process: subprocess.Popen[str] | None = None

    def url(self) -> str:
        with self._lock:
            if self._url is None:
                command = [_tool("kubectl"), "proxy", "--port=0"]
                self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_env())
                assert self._process.stdout is not None, "it is a pipe"
                self._url = f"http://{self._process.stdout.readline().strip().rsplit(' ', 1)[1]}"
            return self._url


_PROXY = _Proxy()


def _create(body: dict[str, Any]) -> None:
    import urllib.request

    root = "/api/v1" if body["apiVersion"] == "v1" else f"/apis/{body['apiVersion']}"
    namespace = body["metadata"].get("namespace")
    path = f"{root}/namespaces/{namespace}/{body['kind'].lower()}s" if namespace else f"{root}/{body['kind'].lower()}s"
    data = json.dumps(body).encode()
    request = urllib.request.Request(_PROXY.url() + path, data, {"Content-Type": "application/json"})  # noqa: S310 - our own proxy
    urllib.request.urlopen(request, timeout=30).read()  # noqa: S310 - our own proxy


def _env() -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": os.environ.get("KUBECONFIG") or str(_ROOT / ".cluster/kubeconfig")}


def _tool(name: str) -> str:
    ours = _ROOT / ".cluster/bin" / name
    return str(ours) if ours.exists() else name


def _kubectl(*arguments: str, check: bool = True) -> str:
    done = subprocess.run([_tool("kubectl"), *arguments], capture_output=True, text=True, check=False, env=_env())
    if check and done.returncode != 0:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout
