"""Our control plane and a pool of one reusable runner, until its input ends.

It is `windlass dev`'s: API and operator in one process with everything that they do in a cluster, and runner processes
in place of pods. Argument: JSON with ``uri``, ``effects`` (a file), ``slots``, ``execution`` (of the pool) and
``token``. Prints ``ready`` and then, as the answer to its first line, the URL of the namespace.
"""

import asyncio
import json
import re
import sys
from typing import Any, Final

import uvloop

from bench.measured import quiet
from windlass_operator.local.plane import LocalPlane

_NAMESPACE: Final = "default"
_API: Final = "windlass.dev/v1alpha1"
_POOL: Final = "bench"
_SOURCE: Final = """
import os
import time
from windlass import step, task

FILE = os.open(os.environ["WINDLASS_BENCH_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(key):
    os.write(FILE, f"{key} {time.monotonic_ns()}\\n".encode())

@step
def tick(key, n):
    note(f"{key}#{n}")
    return n

@task
def noop(call):
    note(call["key"])
    return call["key"]

@task
def steps(call):
    for n in range(call["count"]):
        tick(call["key"], n)
    return call["key"]
"""

_ASYNC: Final = re.sub(r"def (tick|noop|steps)", r"async def \1", _SOURCE).replace("    tick(", "    await tick(")


def resources(slots: int, execution: str) -> list[dict[str, Any]]:
    """Return the pool and its Tasks, as a user would apply them: in one process, asynchronous ones."""
    pool = {"minReplicas": 1, "maxReplicas": 1, "slots": slots, "execution": execution}
    source = _ASYNC if execution == "InProcess" else _SOURCE
    task = {"image": "docker.io/windlass/runner:dev", "source": {"inline": source}}
    named = {
        name: {**task, "entrypoint": f"warm:{name}", "isolation": "Pool", "pool": _POOL} for name in ("noop", "steps")
    }
    return [_resource("WorkerPool", _POOL, pool), *(_resource("Task", name, spec) for name, spec in named.items())]


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": _NAMESPACE}
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec}


async def main() -> None:
    """Serve until the input ends."""
    quiet()
    order = json.loads(sys.argv[1])
    environment = {"WINDLASS_BENCH_EFFECTS": order["effects"]}
    tasks = resources(order["slots"], order["execution"])
    async with LocalPlane.start(order["uri"], tasks, environment=environment, token=order["token"]) as plane:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(f"{plane.url}/api/v1/namespaces/{_NAMESPACE}"), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
