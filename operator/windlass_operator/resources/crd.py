"""Renders the CRDs from the models; ``generate`` writes them.

The models' JSON Schema is turned into a structural schema, the form that Kubernetes asks for: no references, no
alternatives, no closed objects. The same text goes to ``crds/`` and, wrapped in the chart's switches, into the chart.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from windlass_operator.resources import names
from windlass_operator.resources.approval import ApprovalSpec, ApprovalStatus
from windlass_operator.resources.base import KubeModel
from windlass_operator.resources.queue import QueueSpec, QueueStatus
from windlass_operator.resources.run import RunSpec, RunStatus
from windlass_operator.resources.task import TaskSpec, TaskStatus

Object = dict[str, Any]

_HEADER: Final = "# Generated from windlass_operator.resources by `make generate`. Do not edit.\n"
_PLAIN: Final = Path("crds")
_CHART: Final = Path("charts/windlass/templates/crds")


def structural(model: type[KubeModel]) -> Object:
    """Return the structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    converted = _convert(schema, schema.get("$defs", {}))
    if not isinstance(converted, dict):  # pragma: no cover - a model is an object
        raise TypeError(f"{model.__name__} has no object schema")
    return converted


def _convert(node: Any, defs: Mapping[str, Any]) -> Any:
    if not isinstance(node, dict):
        return node
    node = _flattened(node, defs)
    out: Object = {}
    for key, value in node.items():
        if _has_no_place(key, value):
            continue
        match key:
            case "description":
                out[key] = " ".join(inspect.cleandoc(value).split())
            case "properties":
                out[key] = {name: _convert(child, defs) for name, child in value.items()}
            case "items" | "additionalProperties":
                out[key] = _convert(value, defs)
            case "const":
                out["enum"] = [value]
            case "default":
                out[key] = _plain_numbers(value)
            case _:
                out[key] = value
    return {key: out[key] for key in sorted(out, key=_order)}


def _has_no_place(key: str, value: Any) -> bool:
    """Whether a structural schema knows no such keyword, or it says nothing: a default of null is absence."""
    closed = key == "additionalProperties" and value is False
    return closed or (key == "default" and value is None) or key in ("title", "$defs", "propertyNames", "examples")


def _flattened(node: Object, defs: Mapping[str, Any]) -> Object:
    """Return a node without references and without the alternative "or null"."""
    if "$ref" in node:
        # What stands beside a reference says more than what it refers to: the field's own text, not the type's.
        target = defs[node["$ref"].rsplit("/", 1)[-1]]
        return _flattened({**target, **{k: v for k, v in node.items() if k != "$ref"}}, defs)
    alternatives = node.get("anyOf", [])
    if {"type": "null"} not in alternatives:
        return node
    (alternative,) = (a for a in alternatives if a != {"type": "null"})
    rest = {k: v for k, v in node.items() if k != "anyOf"}
    return {**_flattened(alternative, defs), **rest, "nullable": True}


def _plain_numbers(value: Any) -> Any:
    """Return 2 for 2.0: it comes back as 2 from the server and would look like a change."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _order(key: str) -> tuple[int, str]:
    first = ("description", "type", "default", "required", "properties")
    return (first.index(key), "") if key in first else (len(first), key)


def _column(name: str, path: str, description: str, *, type_: str = "string", wide: bool = False) -> Object:
    column: Object = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if wide else column


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "When it was created.", type_="date")


def task_crd() -> Object:
    """Return the CRD of Task."""
    return _crd(
        names.TASK_KIND,
        names.TASKS,
        "wt",
        "A Task says what to run, and how: the code, its retries, its limits. It runs nothing by itself; a Run does.",
        (TaskSpec, TaskStatus),
        columns=[
            _column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether runs of it can start."),
            _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why, or why not."),
            _column("Version", ".status.version", "Number of the current version.", type_="integer"),
            _AGE,
            _column("Entrypoint", ".spec.entrypoint", "The function that it runs.", wide=True),
            _column("Image", ".spec.image", "The image that it runs in; empty for the runner image.", wide=True),
            _column("Standby", ".spec.standby", "Pods that are kept ready.", type_="integer", wide=True),
        ],
        selectable=[],
    )


def run_crd() -> Object:
    """Return the CRD of Run."""
    return _crd(
        names.RUN_KIND,
        names.RUNS,
        "wr",
        "A Run is one execution of a Task. Create it to start, read its status to follow, delete it to cancel. "
        "Windlass deletes it ttlAfterFinished after its end; the run stays readable through the API.",
        (RunSpec, RunStatus),
        columns=[
            _column("State", ".status.state", "Where the run stands."),
            _column("Task", ".spec.taskRef.name", "The Task that it runs."),
            _column("Attempt", ".status.attempt", "Attempts so far.", type_="integer"),
            _column("Reason", ".status.reason", "Why it is not running, or why it ended as it did."),
            _AGE,
            _column("Pod", ".status.podName", "Pod of the current or last attempt.", wide=True),
            _column("Duration", ".status.duration", "From the first attempt to the end.", wide=True),
        ],
        selectable=[".spec.taskRef.name", ".status.state"],
    )


def approval_crd() -> Object:
    """Return the CRD of Approval."""
    return _crd(
        names.APPROVAL_KIND,
        names.APPROVALS,
        "wa",
        "An Approval is a question of a run to people; the run waits for the answer and holds no pod. Decide by "
        "setting spec.decision and spec.by, or with windlass approvals approve. Windlass makes it, and deletes it some "
        "time after the run's end.",
        (ApprovalSpec, ApprovalStatus),
        columns=[
            _column("State", ".status.state", "Whether it is decided, and how."),
            _column("Task", ".spec.task", "The Task that asks."),
            _column("Question", ".status.summary", "What is to be decided."),
            _column("By", ".status.by", "Who decided."),
            _AGE,
            _column("Expires", ".spec.expiresAt", "Until when it can be decided.", wide=True),
            _column("Run", ".spec.runId", "Id of the run that waits.", wide=True),
        ],
        selectable=[".spec.task", ".spec.runId", ".status.state"],
    )


def queue_crd() -> Object:
    """Return the CRD of Queue."""
    return _crd(
        names.QUEUE_KIND,
        names.QUEUES,
        "wq",
        "A Queue is what runs wait in, with limits that they keep together: how many may be under way, and whether "
        "any starts at all. A Task names it in spec.queue; one that names none has a queue of its own, with its name.",
        (QueueSpec, QueueStatus),
        columns=[
            _column("Running", ".status.running", "Runs under way.", type_="integer"),
            _column("Concurrency", ".spec.concurrency", "How many may be; empty for any number.", type_="integer"),
            _column("Queued", ".status.queued", "Runs that wait to start.", type_="integer"),
            _column("Paused", ".spec.paused", "Whether no run starts.", type_="boolean"),
            _AGE,
            _column("Delayed", ".status.delayed", "Runs that start later.", type_="integer", wide=True),
            _column("Oldest", ".status.oldest", "Since when the first queued run waits.", type_="date", wide=True),
        ],
        selectable=[],
    )


def _crd(
    kind: str,
    plural: str,
    short: str,
    description: str,
    models: tuple[type[KubeModel], type[KubeModel]],
    *,
    columns: list[Object],
    selectable: list[str],
) -> Object:
    spec, status = (structural(model) for model in models)
    version: Object = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    if selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in selectable]
    version["schema"] = {
        "openAPIV3Schema": {
            "description": description,
            "type": "object",
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string", "description": f"{names.API_VERSION}."},
                "kind": {"type": "string", "description": f"{kind}."},
                "metadata": {"type": "object"},
                "spec": spec,
                "status": status,
            },
        }
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as people write them, and repeats instead of using anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - the base's signature
        """Indent lists too."""
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base's signature
        """Never write anchors: not every reader of manifests follows them."""
        return True


def dump(document: Object) -> str:
    """Return a document as YAML, keys in the order given."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def render() -> dict[Path, str]:
    """Return every generated file, by its path in the repository."""
    files: dict[Path, str] = {}
    for crd in (task_crd(), run_crd(), approval_crd(), queue_crd()):
        name = f"{crd['metadata']['name']}.yaml"
        text = dump(crd)
        files[_PLAIN / name] = _HEADER + text
        files[_CHART / name] = for_chart(text)
    return files


def for_chart(text: str) -> str:
    """Return a CRD as a template of the chart: behind ``crds.install``, kept by ``crds.keep``."""
    # Braces in a description would be read as a template.
    text = text.replace("{{", '{{ "{{" }}')
    name, rest = text.split("metadata:\n", 1)
    switches = (
        "metadata:\n"
        "  labels:\n"
        '    {{- include "windlass.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    # Deleting a CRD deletes every object of its kind, so uninstalling the chart does not.\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    return f"{_HEADER}{{{{- if .Values.crds.install }}}}\n{name}{switches}{rest}{{{{- end }}}}\n"


def differences(root: Path) -> list[str]:
    """Return what is wrong with the committed files: stale, missing, or left over."""
    wanted = render()
    found = {path.relative_to(root) for folder in (_PLAIN, _CHART) for path in (root / folder).glob("*.yaml")}
    stale = [f"{p} is stale" for p, text in wanted.items() if p in found and (root / p).read_text("utf-8") != text]
    missing = [f"{path} is missing" for path in wanted if path not in found]
    return stale + missing + [f"{path} has no model" for path in sorted(found - set(wanted))]


def write(root: Path) -> None:
    """Write every generated file and remove the ones that have no model any more."""
    wanted = render()
    for folder in (_PLAIN, _CHART):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in (root / folder).glob("*.yaml"):
            if path.relative_to(root) not in wanted:
                path.unlink()
    for path, text in wanted.items():
        (root / path).write_text(text, "utf-8")
