"""Objects of the cluster's benches: a run, and the same as a bare pod and as a Job, created and read alike for all."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parents[1]
NAMESPACE: Final = "windlass-bench"
IMAGE: Final = "docker.io/windlass/runner:dev"
NOW: Final = "import time; print(time.time())"
SOURCE: Final = "import time\nfrom windlass import task\n@task\ndef main():\n    return time.time()\n"
RUNNERS_IMPORTS: Final = "import windlass_runner.main, windlass_runner.zygote, time"
IMPORTS: Final = f"{RUNNERS_IMPORTS}; print(time.time())"
"""The same imports as a runner's."""
_RESOURCES: Final = {"requests": {"cpu": "10m", "memory": "32Mi"}}


@contextmanager
def namespace() -> Iterator[None]:
    """Keep the benches' namespace, new and ``restricted``, for the duration of the block."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    try:
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def run_of(task: str, name: str) -> float:
    """Return the seconds from a run's creation to its first line, which it answers."""
    began = time.time()
    create(run(name, task))
    return float(result(name, time.monotonic() + 60)) - began


def bare(body: dict[str, Any], printer: str) -> float:
    """Return the seconds from an object's creation to the time that its pod prints."""
    began = time.time()
    create(body)
    return printed(printer, 60) - began


def result(name: str, until: float) -> Any:
    """Return a run's result when it can be read."""
    path = f"/apis/windlass.dev/v1alpha1/namespaces/{NAMESPACE}/runs/{name}"
    while time.monotonic() < until:
        status = json.loads(kubectl("get", "--raw", path)).get("status") or {}
        if status.get("state") == "Succeeded":
            return status["result"]
        if status.get("state") in ("Failed", "TimedOut", "Cancelled"):
            raise RuntimeError(f"run {name}: {status}")
        time.sleep(0.1)
    raise RuntimeError(f"run {name} did not end in time: {status}")


def printed(name: str, seconds: float) -> float:
    """Return the time that a pod, or a ``job/…``, has printed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = kubectl("logs", name, "-n", NAMESPACE, check=False).strip()
        if re.fullmatch(r"\d+\.\d+", text):
            return float(text)
        time.sleep(0.1)
    raise RuntimeError(f"{name} printed nothing in time")


def task(name: str, source: str, **more: Any) -> dict[str, Any]:
    """Return a Task with a fresh pod for each run."""
    spec = {"image": IMAGE, "entrypoint": f"{name}_module:main", "source": {"inline": source}, "resources": _RESOURCES}
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Task",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {**spec, **more},
    }


def run(name: str, task: str) -> dict[str, Any]:
    """Return a Run of a Task."""
    metadata = {"name": name, "namespace": NAMESPACE}
    return {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Run",
        "metadata": metadata,
        "spec": {"taskRef": {"name": task}},
    }


def container(code: str) -> dict[str, Any]:
    """Return a container of the runner's image, as restricted as a runner's, that runs a line of Python."""
    return {
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code],
        "resources": _RESOURCES,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def pod(name: str, code: str) -> dict[str, Any]:
    """Return a bare pod of such a container."""
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", **container(code)}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def job(name: str, code: str) -> dict[str, Any]:
    """Return a Job that makes just such a pod once."""
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"backoffLimit": 0, "template": {"spec": pod(name, code)["spec"]}}
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


def create(body: dict[str, Any]) -> None:
    """Create an object."""
    root = "/api/v1" if body["apiVersion"] == "v1" else f"/apis/{body['apiVersion']}"
    namespace = body["metadata"].get("namespace")
    path = f"{root}/namespaces/{namespace}/{body['kind'].lower()}s" if namespace else f"{root}/{body['kind'].lower()}s"
    data = json.dumps(body).encode()
    request = urllib.request.Request(_PROXY.url() + path, data, {"Content-Type": "application/json"})  # noqa: S310 - our own proxy
    urllib.request.urlopen(request, timeout=30).read()  # noqa: S310 - our own proxy


def get(path: str) -> Any:
    """Read an object or a list."""
    return json.loads(urllib.request.urlopen(_PROXY.url() + path, timeout=30).read())  # noqa: S310 - our own proxy


def _env() -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": os.environ.get("KUBECONFIG") or str(_ROOT / ".cluster/kubeconfig")}


def _tool(name: str) -> str:
    ours = _ROOT / ".cluster/bin" / name
    return str(ours) if ours.exists() else name


def kubectl(*arguments: str, check: bool = True) -> str:
    """Run kubectl and return what it printed."""
    done = subprocess.run([_tool("kubectl"), *arguments], capture_output=True, text=True, check=False, env=_env())
    if check and done.returncode != 0:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout
