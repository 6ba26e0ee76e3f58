"""The node's containers and images, by containerd's and runc's own tools."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import command
from .settings import Settings

_LABEL: Final = "windlass.dev/content"
"""Holds the content hash of an imported image. Written after the import: a torn import lacks it and is repeated."""


def _ctr(settings: Settings, *arguments: str | Path) -> list[str | Path]:
    return ["ctr", "--address", settings.containerd_socket, "--namespace", "k8s.io", *arguments]


def runtime_answers(settings: Settings) -> bool:
    """Tell whether containerd takes requests."""
    return settings.containerd_socket.exists() and command.succeeds(_ctr(settings, "version"))


def imported(settings: Settings) -> dict[str, str]:
    """Return each image's content hash."""
    listed = subprocess.run(_ctr(settings, "images", "ls"), capture_output=True, text=True, check=False).stdout
    found = {}
    for line in listed.splitlines()[1:]:
        name, _, rest = line.partition(" ")
        labels = rest.split()[-1] if rest.split() else ""
        for label in labels.split(","):
            if label.startswith(f"{_LABEL}="):
                found[name] = label.partition("=")[2]
    return found


def blobs(settings: Settings) -> set[str]:
    """Return the digests of all content that the node has."""
    listed = subprocess.run(_ctr(settings, "content", "ls", "-q"), capture_output=True, text=True, check=False)
    return set(listed.stdout.split())


def import_image(settings: Settings, name: str, archive: Path, content: str) -> None:
    """Put an image into the node."""
    todo = f"delete {archive} and run `python3 -m e2e.cluster images` again"
    command.run(_ctr(settings, "images", "import", archive), what=f"importing {name}", todo=todo)
    command.run(_ctr(settings, "images", "label", name, f"{_LABEL}={content}"), what=f"labelling {name}")


def end_all(settings: Settings) -> int:
    """End every container and its shim, whether containerd runs or not; return how many containers there were.

    runc's own list lies in our folder, so it names our containers and no others.
    """
    containers = settings.runc_root / "k8s.io"
    listed = subprocess.run(
        ["runc", "--root", containers, "list", "-f", "json"], capture_output=True, text=True, check=False
    )
    found = json.loads(listed.stdout or "null") or [] if containers.is_dir() else []
    for container in found:
        subprocess.run(
            ["runc", "--root", containers, "delete", "--force", container["id"]], capture_output=True, check=False
        )
    for pid in shims(settings):
        os.kill(pid, signal.SIGKILL)
    return len(found)


def shims(settings: Settings) -> Iterator[int]:
    """Find containerd's shims of this cluster: their command line names our socket."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containerd-shim" in arguments[0] and str(settings.containerd_socket).encode() in arguments:
            yield int(entry.name)
