"""The Task resource that a ``@task`` function asks for."""

import json
from datetime import timedelta
from typing import Any

from windlass.durations import write_duration
from windlass.retry import Retry
from windlass.serialization import EMPTY, annotations_of
from windlass.tasks import Task


def task_resource(
    task: Task[Any, Any],
    entrypoint: str,
    *,
    image: str | None = None,
    source: str | None = None,
    namespace: str | None = None,
) -> dict[str, Any]:
    """Return the Task resource of a task.

    Args:
        task: The task.
        entrypoint: ``module:function``.
        image: None leaves it to the installation.
        source: Text of the module, to be written into the resource; None: it is in the image.
        namespace: None leaves it to whoever applies the resource.
    """
    spec: dict[str, Any] = {"image": image} if image else {}
    spec["entrypoint"] = entrypoint
    if source is not None:
        spec["source"] = {"inline": source}
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
    for field in ("queue", "priority", "standby"):
        if task.options.get(field):
            spec[field] = task.options[field]
    if task.options.get("pool"):
        spec |= {"isolation": "Pool", "pool": task.options["pool"]}
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
