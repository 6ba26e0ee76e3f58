"""Give the builds this machine's own pip settings, whatever they are, without writing them into an image.

A Containerfile must not know of a company's mirror or proxy. pip reads a file,
so the file is made of what pip here would use and is mounted into the build.
"""

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .pki import write_private

INSIDE: Final = "/etc/pip.conf"
_CA_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_NOT_FOR_BUILDS: Final = {"config-file", "require-virtualenv", "user", "target", "prefix", "cache-dir", "no-input"}
_FILES: Final = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


@dataclass(frozen=True)
class PipSettings:
    """A pip.conf and the folders and files of this machine that it names."""

    text: str
    mounts: tuple[str, ...]


def collect(environment: Mapping[str, str] = os.environ) -> PipSettings:
    """Read pip's files and PIP_* variables in the order in which pip lets them win."""
    options: dict[str, str] = {}
    for name in (*_FILES, environment.get("PIP_CONFIG_FILE", "")):
        options |= _from_file(Path(name).expanduser()) if name else {}
    for name, value in environment.items():
        if name.startswith("PIP_") and value:
            options[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    options = {name: value for name, value in options.items() if name not in _NOT_FOR_BUILDS}
    options.setdefault("cert", _CA_BUNDLE)
    mounts = []
    for name, value in list(options.items()):
        paths = [word for word in value.split() if word.startswith("/") and not word.startswith("/etc/ssl/certs")]
        absent = [path for path in paths if not _has_content(Path(path))]
        mounts += [path for path in paths if path not in absent]
        kept = [word for word in value.split() if word not in absent]
        if absent and not kept:
            del options[name]
        elif absent:
            options[name] = "\n ".join(kept)
    lines = ["[global]", *(f"{name} = {value}" for name, value in sorted(options.items()))]
    return PipSettings("\n".join(lines) + "\n", tuple(mounts))


def _from_file(file: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(file)
    except configparser.Error:
        return {}  # pip itself will complain, with the line
    return {
        name: value
        for section in ("global", "install")
        if parser.has_section(section)
        for name, value in parser.items(section)
    }


def _has_content(path: Path) -> bool:
    """Tell whether a local path is worth a mount; an empty or absent wheel folder would only make pip warn."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def volumes(folder: Path) -> list[str]:
    """Return buildah's --volume options: the settings, what they name, and this machine's certificates."""
    settings = collect()
    file = folder / "pip.conf"
    write_private(file, settings.text)
    file.chmod(0o644)
    mounts = [f"{file}:{INSIDE}:ro", *(f"{path}:{path}:ro" for path in settings.mounts)]
    if Path(_CA_BUNDLE).exists():
        mounts.append("/etc/ssl/certs:/etc/ssl/certs:O")
    return [option for mount in mounts for option in ("--volume", mount)]
