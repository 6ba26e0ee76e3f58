"""On the cluster: runs in the pods of a pool. How soon they begin, and what they cost the API server."""

import http.client
import json
import time
from typing import Any, Final

import yaml

from bench.cluster import kube_writes
from bench.report import Figure, figure, single
from e2e.support import Space, a_run, address, kubectl, proxy_port, space

_SOURCE: Final = "import time\nfrom windlass import task\n@task\nasync def main():\n    return time.time()\n"
_EXECUTIONS: Final = {"Fork": "forked child", "InProcess": "in-process"}
_ONE_BY_ONE: Final = 15
_COUNTED: Final = 40
"""Runs whose writes are counted."""
_STATUS: Final = "workerpools"
"""Is not counted: the pool's status is written once a second at most, however many runs there are."""
_SETTLED: Final = 3.0
"""Seconds after which nobody writes any more what runs have left to be written."""


def main() -> list[Figure]:
    """Measure."""
    figures = []
    with space() as here, address() as url:
        client = here.rest(url)
        for execution, named in _EXECUTIONS.items():
            name = execution.lower()
            here.apply(_pool(name, execution))
            here.apply(_task(name))
            _until_ready(here, name)
            client.trigger(name).result_sync("60s")
            times = [_first_line(here, name, f"{name}-{n}") for n in range(_ONE_BY_ONE)]
            figures.append(figure(f"warm pool, {named}: Run created → first user line", times, "ms"))
            before = kube_writes(_STATUS)
            runs = [client.trigger(name) for _ in range(_COUNTED)]
            for run in runs:
                run.result_sync("60s")
            each = _written(before)
            figures.append(single(f"Kubernetes writes per warm run without a Run, {named}", each, "writes", goal="<=0"))
            before = kube_writes(_STATUS)
            here.apply("---\n".join(a_run(f"{name}-counted-{n}", name) for n in range(_COUNTED)))
            for n in range(_COUNTED):
                here.wait(f"{name}-counted-{n}", state="Succeeded")
            each = _written(before)
            figures.append(single(f"Kubernetes writes per warm run with a Run, {named}", each, "writes", goal="<=3"))
    return figures


def _first_line(here: Space, task: str, name: str) -> float:
    """Return the milliseconds from the sending of a Run to the first line of its code."""
    body = a_run(name, task)
    began = time.time()
    _create(f"/apis/windlass.dev/v1alpha1/namespaces/{here.name}/runs", yaml.safe_load(body))
    return (float(here.wait(name, state="Succeeded")["result"]) - began) * 1000


def _create(path: str, body: dict[str, Any]) -> None:
    """Create an object; kubectl takes longer to start than what is measured."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy_port(), timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.CREATED:
            raise RuntimeError(f"{path}: {answer.read()[:200]!r}")
    finally:
        connection.close()


def _written(before: float) -> float:
    """Return the writes for each run since then, once the last has been written."""
    time.sleep(_SETTLED)
    return (kube_writes(_STATUS) - before) / _COUNTED


def _pool(name: str, execution: str) -> str:
    spec = {"minReplicas": 1, "maxReplicas": 1, "slots": 8, "execution": execution}
    body = {"apiVersion": "windlass.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": name}, "spec": spec}
    return yaml.safe_dump(body)


def _task(name: str) -> str:
    spec = {"entrypoint": "job:main", "source": {"inline": _SOURCE}, "isolation": "Pool", "pool": name}
    body = {"apiVersion": "windlass.dev/v1alpha1", "kind": "Task", "metadata": {"name": name}, "spec": spec}
    return yaml.safe_dump(body)


def _until_ready(here: Space, name: str) -> None:
    kubectl("wait", f"workerpool/{name}", "-n", here.name, "--for=jsonpath={.status.ready}=1", "--timeout=60s")
