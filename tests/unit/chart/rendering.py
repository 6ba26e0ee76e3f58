"""Renders the chart as Helm does, without a cluster."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[3]
CHART: Final = ROOT / "charts/windlass"
NAMESPACE: Final = "windlass-system"

Object = dict[str, Any]


class HelmMissingError(RuntimeError):
    """The chart cannot be tested. Not a reason to skip: an untested chart is a broken one."""

    def __init__(self) -> None:
        super().__init__(
            "Helm is needed to test the chart. `make cluster-up` builds it into .cluster/bin; or set HELM to its path."
        )


class RenderError(RuntimeError):
    """Helm refused the values; the text is its own."""


@functools.cache
def helm() -> str:
    """Return the path of Helm.

    Raises:
        HelmMissingError: There is none.
    """
    built = ROOT / ".cluster/bin/helm"
    candidates = [os.environ.get("HELM"), str(built) if built.exists() else None, shutil.which("helm")]
    found = next((candidate for candidate in candidates if candidate), None)
    if found is None:
        raise HelmMissingError
    return found


def run_helm(*arguments: str | Path, stdin: str = "") -> str:
    """Run Helm and return what it printed.

    Raises:
        RenderError: It failed.
    """
    environment = {**os.environ, "KUBECONFIG": "/dev/null", "HELM_NAMESPACE": NAMESPACE}
    done = subprocess.run(
        [helm(), *map(str, arguments)], capture_output=True, text=True, check=False, input=stdin, env=environment
    )
    if done.returncode:
        raise RenderError(done.stderr + done.stdout)
    return done.stdout


@functools.cache
def _rendered(values: str, release: str) -> str:
    return run_helm("template", release, CHART, "--namespace", NAMESPACE, "--values", "-", stdin=values)


def render_text(values: Object | None = None, *, release: str = "windlass") -> str:
    """Return the rendered chart as text."""
    return _rendered(json.dumps(values or {}, sort_keys=True), release)


def render(values: Object | None = None, *, release: str = "windlass") -> list[Object]:
    """Return the rendered objects."""
    return [document for document in yaml.safe_load_all(render_text(values, release=release)) if document]


def select(objects: list[Object], kind: str, name: str | None = None) -> list[Object]:
    """Return the objects of a kind, and of a name where one is given."""
    return [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """Return the one object of that kind and name."""
    (found,) = select(objects, kind, name)
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every pod spec with the name of what it belongs to."""
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            yield name, item["spec"]
        elif "template" in item.get("spec", {}):
            yield name, item["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod spec."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def env(container: Object) -> dict[str, Object]:
    """Return a container's variables by name."""
    return {entry["name"]: entry for entry in container.get("env", [])}
