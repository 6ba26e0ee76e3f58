"""The images that are one static file: the sandbox of every pod, the name service, and busybox for tests."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import archives
from .addons import COREDNS_IMAGE
from .node_files import PAUSE_IMAGE
from .programs import Programs
from .settings import Settings

BUSYBOX_IMAGE: Final = "docker.io/windlass/busybox:dev"
KEPT_ARCHIVES: Final = 2
"""Archives kept per image: this state and the one before. Each has the size of the whole image."""
_BUSYBOX: Final = Path("/bin/busybox")
_CA_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Archive:
    """An image in the cache, ready to import."""

    name: str
    content: str
    path: Path


def archive_path(settings: Settings, name: str, content: str) -> Path:
    """Return where the archive of this very content lies, or would lie."""
    safe = name.removeprefix("docker.io/").replace("/", "_").replace(":", "_")
    return settings.cache / "images" / f"{safe}-{content}.tar"


def prepare(settings: Settings, programs: Programs) -> list[Archive]:
    """Pack the images that the cache lacks and return all three."""
    return [
        _prepare(settings, PAUSE_IMAGE, programs.path("pause"), "/pause"),
        _prepare(settings, COREDNS_IMAGE, programs.path("coredns"), "/coredns"),
        _prepare(settings, BUSYBOX_IMAGE, _BUSYBOX, "/bin/busybox"),
    ]


def _prepare(settings: Settings, name: str, program: Path, inside: str) -> Archive:
    # Size and time stand for the content: these files are only ever replaced whole.
    stat = program.stat()
    identity = f"1 {name} {program.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    content = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = archive_path(settings, name, content)
    if not path.exists():
        files = [archives.File(inside, program)]
        if name == COREDNS_IMAGE:
            files.append(archives.File("/etc/ssl/certs/ca-certificates.crt", _CA_BUNDLE, mode=0o644))
        if name == BUSYBOX_IMAGE:
            archives.pack(path, name, [*files, *_busybox_extras()], [], ["sh"])
        else:
            archives.pack(path, name, files, [inside])
        prune(path, content)
    return Archive(name, content, path)


def prune(path: Path, content: str) -> None:
    """Remove all but the newest archives of the image that `path` is one of."""
    stem = path.name.removesuffix(f"{content}.tar")
    found = sorted(path.parent.glob(f"{stem}*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in found[KEPT_ARCHIVES:]:
        file.unlink()


def _busybox_extras() -> list[archives.File]:
    listed = subprocess.run([_BUSYBOX, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    links = [archives.File(f"/{applet}", link="/bin/busybox") for applet in listed if applet != "bin/busybox"]
    return [*links, archives.File("/tmp", mode=0o1777), archives.File("/etc", mode=0o755)]
