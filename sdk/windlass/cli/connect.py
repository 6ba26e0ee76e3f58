"""Reaching the API from a person's machine: by the environment, else with what kubectl already knows."""

import atexit
import json
import os
import re
import shutil
import subprocess
from typing import Final

from windlass.client import Client
from windlass.errors import ApiError

_FORWARDING: Final = re.compile(r"127\.0\.0\.1:(\d+)")


def connect(namespace: str | None, service_account: str) -> Client:
    """Return a client.

    ``WINDLASS_URL`` and ``WINDLASS_TOKEN`` win. What is missing is asked of kubectl: a port-forward to the Service
    ``windlass-api``, ended with the command, and a token of a service account of the namespace.

    Raises:
        ApiError: Neither way works; the text says what to set.
    """
    namespace = namespace or os.environ.get("WINDLASS_NAMESPACE") or _kubectl_namespace()
    url = os.environ.get("WINDLASS_URL") or _forward()
    token = None
    if not (os.environ.get("WINDLASS_TOKEN") or os.environ.get("WINDLASS_TOKEN_FILE")):
        token = _kubectl("create", "token", service_account, "--audience=windlass", "-n", namespace).strip()
    return Client(url, token, namespace)


def _kubectl(*arguments: str) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ApiError(
            "NotConfigured",
            "Set WINDLASS_URL and WINDLASS_TOKEN, or install kubectl: the address is not known without.",
        )
    done = subprocess.run([kubectl, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ApiError("NotConfigured", f"kubectl {' '.join(arguments[:3])} failed: {said[0]}")
    return done.stdout


def _kubectl_namespace() -> str:
    if shutil.which("kubectl") is None:
        return "default"
    config = json.loads(_kubectl("config", "view", "--minify", "-o", "json") or "{}")
    contexts = config.get("contexts") or [{}]
    return str((contexts[0].get("context") or {}).get("namespace") or "default")


def _forward() -> str:
    system = os.environ.get("WINDLASS_SYSTEM_NAMESPACE", "windlass-system")
    _kubectl("get", "service", "windlass-api", "-n", system, "-o", "name")
    kubectl = shutil.which("kubectl") or "kubectl"
    process = subprocess.Popen(
        [kubectl, "port-forward", "-n", system, "service/windlass-api", ":8080"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.terminate)
    assert process.stdout is not None, "it is a pipe"
    line = process.stdout.readline()
    found = _FORWARDING.search(line)
    if found is None:
        said = process.stderr.read().strip() if process.stderr else ""
        raise ApiError("ApiUnreachable", f"kubectl port-forward to {system}/windlass-api failed: {said or line}")
    return f"http://127.0.0.1:{found.group(1)}"
