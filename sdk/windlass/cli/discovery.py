"""The ``@task`` functions of files, found by importing them. A program of its own: what users import must harm nobody.

``python -m windlass.cli.discovery FILE...`` imports each file by the name that it has in its package and writes one
JSON object to standard output: ``tasks`` (Task resources, each with the file that has it), ``files`` (what was imported
from the same folders) and ``problems`` (file, line, message). What the modules print goes to standard error.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def discover(files: list[Path]) -> dict[str, Any]:
    """Import files and return what they have."""
    roots = [root_of(file) for file in files]
    sys.path[:0] = list(dict.fromkeys(map(str, roots)))
    tasks: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    names: dict[str, Path] = {}
    for file, root in zip(files, roots, strict=True):
        name = module_name(file, root)
        first = names.setdefault(name, file)
        if first != file:
            message = f"{file} and {first} are both module {name!r}. Rename one, or make packages with __init__.py."
            problems.append({"file": str(file), "line": None, "message": message})
            continue
        try:
            tasks += [{"file": str(file), "task": task} for task in _tasks_of(name)]
        except BaseException as error:  # whatever the module does, SystemExit too
            problems.append(problem_of(error, file, roots))
    return {"tasks": tasks, "files": _imported(roots), "problems": problems}


def root_of(file: Path) -> Path:
    """Return the folder that must be on the path: the first above the file that is no package."""
    folder = file.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def module_name(file: Path, root: Path) -> str:
    """Return the name by which a file is imported."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tasks_of(name: str) -> list[dict[str, Any]]:
    import importlib

    from windlass.task_resource import task_resource
    from windlass.tasks import Task

    module = importlib.import_module(name)
    # What a module only imports is a Task of the module that has it.
    own = {at: value for at, value in vars(module).items() if isinstance(value, Task)}
    return [
        task_resource(task, f"{name}:{attribute}")
        for attribute, task in own.items()
        if getattr(task.function, "__module__", name) == name
    ]


def problem_of(error: BaseException, file: Path, roots: list[Path]) -> dict[str, Any]:
    """Return what is wrong, and the line of the user's code that it is about."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return {"file": error.filename, "line": error.lineno, "message": f"SyntaxError: {error.msg}"}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(_is_below(Path(frame.filename), root) for root in roots):
            return {"file": frame.filename, "line": frame.lineno, "message": said}
    return {"file": str(file), "line": None, "message": said}


def _imported(roots: list[Path]) -> list[str]:
    paths = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    found = {Path(path) for path in paths if isinstance(path, str)}
    return sorted(str(path) for path in found if any(_is_below(path, root) for root in roots))


def _is_below(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and "site-packages" not in path.parts


def main() -> None:
    """Write what the files of the command line have."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what the modules print
    sys.argv[1:], files = [], [Path(name) for name in sys.argv[1:]]
    found = discover(files)
    out.write(json.dumps(found))
    out.flush()
    os._exit(0)  # threads that a module has started do not hold us


if __name__ == "__main__":
    main()
