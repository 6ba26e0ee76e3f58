"""Task resources from ``@task`` functions."""

import importlib
import inspect
import json
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from windlass.durations import write_duration
from windlass.retry import Retry
from windlass.serialization import EMPTY, annotations_of
from windlass.tasks import Task


def manifests_of(module: str, *, image: str | None, inline: bool, namespace: str | None) -> str:
    """Return the YAML of all Tasks of a module, one document each.

    Args:
        module: Name of a module, or path of a file.
        image: Image to write; None leaves it to the installation.
        inline: Write the module's text into the Task.
        namespace: Namespace to write, or None.

    Raises:
        ImportError: The module cannot be imported.
        ValueError: It has no tasks.
    """
    loaded, name = _load(module)
    tasks = [(attribute, value) for attribute, value in vars(loaded).items() if isinstance(value, Task)]
    if not tasks:
        raise ValueError("no @task functions found")
    source = inspect.getsource(loaded) if inline else None
    documents = [manifest(task, f"{name}:{attribute}", image, source, namespace) for attribute, task in tasks]
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, allow_unicode=True) for document in documents)


def _load(module: str) -> tuple[ModuleType, str]:
    path = Path(module)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.parent))
        module = path.stem
    else:
        sys.path.insert(0, "")
    return importlib.import_module(module), module


def manifest(
    task: Task[Any, Any],
    entrypoint: str,
    image: str | None = None,
    source: str | None = None,
    namespace: str | None = None,
) -> dict[str, Any]:
    """Return the Task resource of a task; None leaves out what it stands for."""
    spec: dict[str, Any] = {"image": image} if image else {}
    spec["entrypoint"] = entrypoint
    if source is not None:
        spec["source"] = {"inline": _Literal(source)}
    retry = task.options.get("retry")
    if isinstance(retry, Retry):
        spec["retry"] = {
            "maxAttempts": retry.max_attempts,
            "minDelay": _duration(retry.min_delay),
            "factor": retry.factor,
            "maxDelay": _duration(retry.max_delay),
            "jitter": retry.jitter,
        }
    for option in ("timeout", "attempt_timeout", "total_timeout"):
        first, _, second = option.partition("_")
        field = first + second.capitalize()
        if task.options.get(option) is not None:
            spec[field] = _duration(task.options[option])
    schema = _payload_schema(task)
    if schema is not None:
        spec["payloadSchema"] = schema
    metadata = {"name": task.name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "windlass.dev/v1alpha1", "kind": "Task", "metadata": metadata, "spec": spec}


def _payload_schema(task: Task[Any, Any]) -> dict[str, Any] | None:
    """Return the JSON Schema of a task's one annotated parameter; None where nothing is known."""
    parameters = list(annotations_of(task.function)[0].parameters.values())
    if len(parameters) != 1 or parameters[0].annotation in (EMPTY, Any):
        return None
    from pydantic import TypeAdapter

    schema: dict[str, Any] = TypeAdapter(parameters[0].annotation).json_schema()
    return json.loads(json.dumps(schema))  # type: ignore[no-any-return]  # a JSON object stays one


def _duration(value: str | timedelta) -> str:
    return value if isinstance(value, str) else write_duration(value)


class _Literal(str):
    """A text that YAML writes as a block, so that people can read the code."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    _Literal, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style="|")
)
