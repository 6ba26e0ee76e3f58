"""What the scenarios share: kubectl, waiting with a reason, the API as a person reaches it."""

import atexit
import base64
import functools
import http.client
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from windlass.client import Client

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "windlass-system"

SLOW = """
import time
@step
def one():
    print("one ran", flush=True)
    return 1
@step
def two():
    time.sleep(5 if current_run().attempt == 1 else 0)
    return 2
@step
def three():
    return 3
@task
def main():
    return [one(), two(), three()]
"""
"""A task of three steps, the second of which takes 5 s in the first attempt."""


def environment() -> dict[str, str]:
    """Return the environment in which kubectl and windlass find this cluster."""
    existing = os.environ.get("WINDLASS_CLUSTER") == "existing"
    kubeconfig = os.environ.get("KUBECONFIG") if existing else None
    tools = f"{ROOT / '.cluster/bin'}:{ROOT / '.venv/bin'}"
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KUBECONFIG": kubeconfig or str(ROOT / ".cluster/kubeconfig"),
        "WINDLASS_SERVICE_ACCOUNT": "developer",
    }


def run(*command: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    done = subprocess.run(
        command, input=stdin, text=True, capture_output=True, check=False, env=environment(), cwd=ROOT, timeout=200
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed."""
    return run("kubectl", *arguments, stdin=stdin).stdout


def ledger(*arguments: str, program: str = "psql", stdin: str | None = None) -> str:
    """Run a program of PostgreSQL in the embedded database's pod, against the ledger, and return what it printed."""
    secret = json.loads(kubectl("get", "secret", "windlass-postgres", "-n", SYSTEM, "-o", "json"))["data"]
    uri = base64.b64decode(secret["uri"]).decode()
    within = ("exec", "-i", "-n", SYSTEM, "windlass-postgres-0", "-c", "postgres", "--")
    return kubectl(*within, program, "--dbname", uri, *arguments, stdin=stdin)


def query(sql: str, **values: str) -> list[list[str]]:
    """Ask the ledger and return rows of texts. A value stands in the statement as ``:'name'``."""
    given = [f"--set={name}={value}" for name, value in values.items()]
    shown = ledger("--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", *given, stdin=sql)
    return [line.split("|") for line in shown.splitlines()]


@functools.cache
def proxy_port() -> int:
    """Start ``kubectl proxy`` for this process and return its port."""
    command = ["kubectl", "proxy", "--port=0"]
    proxy = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    atexit.register(proxy.terminate)
    assert proxy.stdout is not None, "it is a pipe"
    return int(proxy.stdout.readline().rsplit(":", 1)[1])


def api_get(path: str) -> dict[str, Any] | None:
    """Read an object; None if the API server does not give it.

    Scenarios look again and again, and each ``kubectl get`` would cost a tenth of a second of CPU.
    """
    connection = http.client.HTTPConnection("127.0.0.1", proxy_port(), timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read()
        return dict(json.loads(text)) if answer.status == http.client.OK else None
    finally:
        connection.close()


class Space:
    """A namespace of a test's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def apply(self, text: str) -> None:
        """Apply YAML."""
        kubectl("apply", "-n", self.name, "-f", "-", stdin=text)

    def status(self, run_name: str) -> dict[str, Any]:
        """Return the status of a Run; empty if there is none."""
        body = api_get(f"/apis/windlass.dev/v1alpha1/namespaces/{self.name}/runs/{run_name}")
        return dict((body or {}).get("status") or {})

    def wait(self, run_name: str, seconds: float = 60, **expected: Any) -> dict[str, Any]:
        """Wait until the status has these values and return it; the failure says what it had instead."""
        until = time.monotonic() + seconds
        while True:
            status = self.status(run_name)
            if all(status.get(key) == value for key, value in expected.items()):
                return status
            if time.monotonic() > until:
                log = kubectl(
                    "logs", "-n", "windlass-system", "deploy/windlass-operator", "-c", "operator", "--tail=15"
                )
                pods = kubectl("get", "pods", "-n", self.name)
                raise AssertionError(
                    f"not {expected} after {seconds} s but {json.dumps(status, indent=1)}\n{pods}\n{log}"
                )
            time.sleep(0.1)

    def wait_for_log(self, run_name: str, line: str, seconds: float = 60) -> None:
        """Wait until the run has printed this line."""
        until = time.monotonic() + seconds
        while line not in (log := self.windlass("runs", "logs", run_name, check=False).stdout.splitlines()):
            if time.monotonic() > until:
                raise AssertionError(f"no {line!r} after {seconds} s but {log}\n{json.dumps(self.status(run_name))}")
            time.sleep(0.2)

    def pod_of(self, run_name: str, **expected: Any) -> str:
        """Wait for these values and return the pod of the run."""
        return str(self.wait(run_name, **expected)["podName"])

    def rest(self, url: str) -> Client:
        """Return a client of this namespace's ``developer``, at an address of the API."""
        token = kubectl("create", "token", "developer", "-n", self.name, "--audience=windlass").strip()
        return Client(url, token, self.name)

    def windlass(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the windlass command in this namespace."""
        return run("windlass", *arguments, "-n", self.name, check=check)


@contextmanager
def address() -> Iterator[str]:
    """The API's address as somebody outside the cluster has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["kubectl", "port-forward", "-n", SYSTEM, "service/windlass-api", f"{port}:8080"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            assert "Forwarding" in forward.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            forward.terminate()


@contextmanager
def space() -> Iterator[Space]:
    """Make a namespace in which only restricted pods start, with an account that may use Tasks and Runs."""
    name = f"e2e-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    account = {"kind": "ServiceAccount", "name": "developer", "namespace": name}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "developer", "namespace": name}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "developer", "namespace": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [account],
        },
    ]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
    # No pod is let in without it. Its controller may still be starting, where a scenario has ended parts of the node.
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=120s")
    try:
        yield Space(name)
    finally:
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def a_task(name: str, code: str, **spec: Any) -> str:
    """Return a Task with inline code, as YAML. The entrypoint is ``job:main``."""
    body = {"entrypoint": "job:main", "source": {"inline": f"from windlass import *\n{code}"}, **spec}
    body.setdefault("resources", {"requests": {"cpu": "10m", "memory": "32Mi"}})
    return yaml.safe_dump(
        {"apiVersion": "windlass.dev/v1alpha1", "kind": "Task", "metadata": {"name": name}, "spec": body}
    )


def a_run(name: str, task: str, **spec: Any) -> str:
    """Return a Run as YAML."""
    body = {"taskRef": {"name": task}, **spec}
    return yaml.safe_dump(
        {"apiVersion": "windlass.dev/v1alpha1", "kind": "Run", "metadata": {"name": name}, "spec": body}
    )
