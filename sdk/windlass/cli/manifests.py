"""Task resources from ``@task`` functions."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

import yaml

from windlass.task_resource import task_resource
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
    written = None if source is None else _Literal(source)
    documents = [
        task_resource(task, f"{name}:{attribute}", image=image, source=written, namespace=namespace)
        for attribute, task in tasks
    ]
    return "---\n".join(yaml.safe_dump(document, sort_keys=False, allow_unicode=True) for document in documents)


def _load(module: str) -> tuple[ModuleType, str]:
    path = Path(module)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.parent))
        module = path.stem
    else:
        sys.path.insert(0, "")
    return importlib.import_module(module), module


class _Literal(str):
    """A text that YAML writes as a block, so that people can read the code."""

    __slots__ = ()


yaml.SafeDumper.add_representer(
    _Literal, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style="|")
)
