"""What goes into a project image: read from its Containerfile, so that no second list of paths can go stale."""

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import ClusterError

_SKIPPED_FOLDERS: Final = {
    "__pycache__",
    "node_modules",
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}


@dataclass(frozen=True)
class ProjectImage:
    """One image that the project builds. Its build context is the root of the checkout."""

    short: str
    name: str
    containerfile: str


PROJECT_IMAGES: Final = (
    ProjectImage("operator", "docker.io/windlass/operator:dev", "operator/Containerfile"),
    ProjectImage("runner", "docker.io/windlass/runner:dev", "runner-image/Containerfile"),
    ProjectImage("postgres", "docker.io/windlass/postgres:dev", "charts/windlass/postgres/Containerfile"),
)


def select(names: Iterable[str]) -> tuple[ProjectImage, ...]:
    """Return the images asked for by short or full name; all without a name."""
    wanted = list(names)
    known = {image.short: image for image in PROJECT_IMAGES} | {image.name: image for image in PROJECT_IMAGES}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        shorts = ", ".join(image.short for image in PROJECT_IMAGES)
        raise ClusterError(f"there is no image {', '.join(unknown)}", todo=f"choose of: {shorts}")
    return tuple(known[name] for name in wanted) or PROJECT_IMAGES


def content_hash(checkout: Path, image: ProjectImage, base: str) -> str:
    """Hash all that the build reads: the base, the Containerfile and every file that it copies."""
    containerfile = checkout / image.containerfile
    text = containerfile.read_text()
    digest = hashlib.sha256(f"2\0{image.name}\0{base}\0{text}\0".encode())
    for file in sorted(set(_copied_files(checkout, copied_paths(text)))):
        digest.update(f"{file.relative_to(checkout)}\0{file.stat().st_mode & 0o111}\0".encode())
        digest.update(str(file.readlink()).encode() if file.is_symlink() else file.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def copied_paths(containerfile: str) -> list[str]:
    """Return the sources of every COPY and ADD from the build context."""
    found: list[str] = []
    for line in containerfile.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction.upper() not in {"COPY", "ADD"}:
            continue
        words: list[str] = json.loads(rest) if rest.lstrip().startswith("[") else shlex.split(rest)
        flags = [word for word in words if word.startswith("--")]
        if any(flag.startswith("--from=") for flag in flags):
            continue  # from another stage, whose own inputs are counted where they enter
        found += [word for word in words if not word.startswith("--")][:-1]
    return found


def _copied_files(checkout: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        clean = pattern.removeprefix("./").strip("/")
        if pattern.startswith(("http:", "https:")):
            continue
        for path in checkout.glob(clean) if clean not in {"", "."} else [checkout]:
            if path.is_dir():
                yield from _walk(path)
            else:
                yield path


def _walk(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        yield from (Path(top, name) for name in files if not name.endswith((".pyc", ".tmp")))
