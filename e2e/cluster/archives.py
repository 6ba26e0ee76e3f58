"""Images that are one file on nothing, packed by hand: no build tool, no cache, and the same bytes each time."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class File:
    """A file or, with `link`, a symbolic link in the image."""

    path: str
    source: Path | None = None
    link: str = ""
    mode: int = 0o755


def pack(
    target: Path, name: str, files: Sequence[File], entrypoint: Sequence[str], command: Sequence[str] = ()
) -> None:
    """Write a docker-archive with one layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            _add(tar, file)
    content = layer.getvalue()
    diff = hashlib.sha256(content).hexdigest()
    run = {
        "Entrypoint": list(entrypoint),
        "Cmd": list(command),
        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": "/",
    }
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [f"{diff}/layer.tar"]}]).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    with tarfile.open(scratch, "w") as tar:
        for member, data in ((f"{diff}/layer.tar", content), (config_name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    scratch.replace(target)


def _add(tar: tarfile.TarFile, file: File) -> None:
    info = tarfile.TarInfo(file.path.lstrip("/"))
    info.mode = file.mode
    if file.link:
        info.type, info.linkname = tarfile.SYMTYPE, file.link
        tar.addfile(info)
    elif file.source is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        data = file.source.read_bytes()
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
