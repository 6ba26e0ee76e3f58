"""What a path has to run: Tasks of Python modules, and Tasks and Runs of YAML files."""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from windlass_operator.domain.errors import WindlassError
from windlass_operator.local.resources import LOCAL_IMAGE
from windlass_operator.resources.names import API_VERSION, QUEUE_KIND, RUN_KIND, TASK_KIND, WORKER_POOL_KIND

IGNORED: Final = frozenset({"node_modules", "__pycache__", "site-packages", "build", "dist"})
_PATIENCE: Final = 60.0
"""Seconds that the imports of all modules may take."""
_YAML: Final = frozenset({".yaml", ".yml"})
IN_ORDER: Final = (QUEUE_KIND, WORKER_POOL_KIND, TASK_KIND, RUN_KIND)
"""The kinds of resources that are taken, each after those that it names."""


class ProjectError(WindlassError):
    """The path cannot be used."""

    code = "PathInvalid"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a part of the project from being run."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        """Return it as compilers write it, so that terminals and editors find the place."""
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Found:
    """What one look has found.

    Attributes:
        objects: Resources as (file, object). A Task of a YAML file comes in the place of a module's of that name.
        python_path: Folders that user code is imported from.
        problems: What stands in the way of the rest.
        notes: What is done otherwise than a cluster would.
    """

    objects: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    python_path: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Project:
    """A file or folder that ``windlass dev`` was given.

    Args:
        path: Of a Python file, a YAML file, or a folder with some of either.

    Raises:
        ProjectError: There is no such path, or it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not self.path.exists():
            raise ProjectError(f"There is no {path}.", hint="Give a Python file, a YAML file, or a folder.")
        if self.path.is_file() and self.path.suffix not in (".py", *_YAML):
            raise ProjectError(f"{path} is neither Python nor YAML.", hint="Give a .py or .yaml file, or a folder.")
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self._imported: list[str] = []
        self._seen: dict[str, tuple[int, int]] = {}

    def changed(self) -> bool:
        """Whether a file that the last look depended on is another one now."""
        return self._stamp() != self._seen

    def _stamp(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in {*map(str, self._files()), *self._imported}:
            with contextlib.suppress(OSError):
                seen = Path(name).stat()
                found[name] = (seen.st_mtime_ns, seen.st_size)
        return found

    def _files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else list(_walk(self.path))

    async def look(self) -> Found:
        """Look at all files; user code is imported in a process of its own."""
        before = self._stamp()  # what is saved while we read is another look's
        files = self._files()
        modules = [file for file in files if file.suffix == ".py" and (file == self.path or _has_tasks(file))]
        answer = await _discover(modules) if modules else {"tasks": [], "files": [], "problems": []}
        found = Found(python_path=list(dict.fromkeys([*_roots(modules), str(self.folder)])))
        found.problems.extend(
            Problem(_short(one["file"]), one["line"], one["message"].strip()) for one in answer["problems"]
        )
        self._imported = answer["files"]
        self._seen = self._stamp() | before
        image = f"{LOCAL_IMAGE}:{_hash([*map(str, modules), *answer['files']])}"
        for file in files:
            if file.suffix in _YAML:
                _read_yaml(file, image, found, asked_for=file == self.path)
        named = {_name(body) for _, body in found.objects if body.get("kind") == TASK_KIND}
        first: dict[tuple[str, str], str] = {}
        for one in answer["tasks"]:
            body, origin = one["task"], _short(one["file"])
            if first.setdefault(_name(body), origin) != origin:
                message = f"Task {_name(body)[1]!r} is also in {first[_name(body)]}. Give one another name."
                found.problems.append(Problem(origin, None, message))
            elif _name(body) not in named:
                body["spec"]["image"] = image
                found.objects.append((origin, body))
        return found


def _walk(folder: Path) -> Iterable[Path]:
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "." and name not in IGNORED and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted(names) if name[0] != "." and Path(name).suffix in (".py", *_YAML))


def _has_tasks(file: Path) -> bool:
    """Whether a file may be imported: others may do anything when they are. Tests are for the test runner."""
    if file.name.startswith("test_") or file.name == "conftest.py":
        return False
    text = file.read_text(errors="replace")
    return "windlass" in text and "task" in text


def _roots(modules: Iterable[Path]) -> list[str]:
    found = []
    for file in modules:
        folder = file.parent
        while (folder / "__init__.py").exists():
            folder = folder.parent
        found.append(str(folder))
    return found


async def _discover(modules: list[Path]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "windlass.cli.discovery",
        *map(str, modules),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _PATIENCE)
    except TimeoutError:
        process.kill()
        out, err = b"", f"its imports did not end within {_PATIENCE:g} s".encode()
    try:
        found: dict[str, Any] = json.loads(out)
    except ValueError:
        said = err.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        problem = {"file": str(modules[0]), "line": None, "message": f"cannot be imported: {said[0]}"}
        return {"tasks": [], "files": [], "problems": [problem]}
    return found


def _hash(files: Iterable[str]) -> str:
    """Return a hash of code: another one makes a new version of each Task, as a new image would."""
    made = hashlib.sha256()
    for name in sorted(set(files)):
        path = Path(name)
        made.update(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"") + b"\0")
    return made.hexdigest()[:12]


def _read_yaml(file: Path, image: str, found: Found, *, asked_for: bool) -> None:
    text = file.read_text(errors="replace")
    if "windlass.dev/" not in text and not asked_for:
        return  # of other programs; templates of some are not even YAML
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = str(getattr(error, "problem", None) or error).splitlines()[0]
        found.problems.append(Problem(_short(str(file)), mark.line + 1 if mark else None, message))
        return
    ours = [one for one in documents if isinstance(one, dict) and one.get("apiVersion") == API_VERSION]
    if asked_for and not ours:
        kinds = ", ".join(IN_ORDER[:-1])
        found.problems.append(Problem(_short(str(file)), None, f"it has no {kinds} or {IN_ORDER[-1]} of {API_VERSION}"))
    for body in ours:
        if body.get("kind") == TASK_KIND and isinstance(body.get("spec"), dict):
            spec = body["spec"]
            if spec.get("image"):
                found.notes.append(f"{_short(str(file))}: image {spec['image']} is ignored; code runs on this machine")
            body = {**body, "spec": {**spec, "image": LOCAL_IMAGE if spec.get("source") else image}}  # noqa: PLW2901 - as local mode reads it
        if body.get("kind") in IN_ORDER:
            found.objects.append((_short(str(file)), body))
        else:
            found.notes.append(f"{_short(str(file))}: {str(body.get('kind'))[:80]} has no effect on this machine")


def _name(body: dict[str, Any]) -> tuple[str, str]:
    metadata = body.get("metadata")
    given = metadata if isinstance(metadata, dict) else {}
    return str(given.get("namespace") or "default"), str(given.get("name"))


def _short(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
