"""Build the project's images with buildah, in a storage of our own in the cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import command, pip_settings
from .containerfiles import ProjectImage
from .errors import ClusterError
from .image_store import ImageStore
from .processes import boot_id
from .progress import stage
from .settings import Settings

BASE_IMAGE: Final = "localhost/windlass-base:bookworm"
_SUITE: Final = "bookworm"
# python-is-python3: a Containerfile that says `python` works here as on the public Python images.
_PACKAGES: Final = ("ca-certificates", "python3", "python3-venv", "python3-pip", "python-is-python3")
_RECIPE: Final = (
    "--variant=minbase",
    f"--include={','.join(_PACKAGES)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "info", "locale", "lintian")),
    # The image is one environment of its own; Debian's guard against pip is for machines that people live on.
    '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log',
    '--customize-hook=: > "$1"/etc/pip.conf',  # the place where builds mount theirs
)
BASE_CONTENT: Final = hashlib.sha256(repr((_SUITE, _RECIPE)).encode()).hexdigest()[:16]
_LABEL: Final = "windlass.dev/content"
_MANY_IMAGES: Final = 100
"""More images than this in the storage, and the unused layers go. One build makes about ten."""


class Builder:
    """buildah with its own storage."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.cache / "buildah"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait for another build: two at once would do the same work twice."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for stale in self._folder.glob("run-*"):  # mounts of a boot that is over
                if stale != self._runroot:
                    shutil.rmtree(stale, ignore_errors=True)
            yield
        finally:
            os.close(handle)

    @property
    def _runroot(self) -> Path:
        """Buildah expects this to be empty after a restart, so it is named after the boot."""
        return self._folder / f"run-{boot_id()[:8]}"

    def _buildah(self, *arguments: str | Path) -> list[str | Path]:
        return ["buildah", "--root", self._folder / "storage", "--runroot", self._runroot, *arguments]

    def ensure_base(self) -> None:
        """Make the base image of all the others, once: a minimal Debian with Python."""
        listed = self._ask("images", "-q", "--filter", f"label={_LABEL}={BASE_CONTENT}", BASE_IMAGE)
        if listed:
            return
        archive = self._settings.cache / "images" / f"base-{BASE_CONTENT}.tar"
        if not archive.exists():
            with stage("bootstrapped the base image's Debian"):
                archive.parent.mkdir(parents=True, exist_ok=True)
                scratch = archive.with_name(f".base-{os.getpid()}.tar")
                command.run(
                    ["mmdebstrap", *_RECIPE, _SUITE, scratch],
                    what="mmdebstrap",
                    todo="is Debian's mirror reachable? The last lines above are mmdebstrap's",
                )
                scratch.replace(archive)
        with stage("made the base image"):
            container = command.run(self._buildah("from", "scratch"), what="buildah from scratch").split()[-1]
            command.run(self._buildah("add", "--quiet", container, archive, "/"), what="unpacking the base image")
            command.run(
                self._buildah(
                    "config",
                    "--label",
                    f"{_LABEL}={BASE_CONTENT}",
                    "--env",
                    "LANG=C.UTF-8",
                    "--cmd",
                    "python3",
                    container,
                ),
                what="buildah config",
            )
            command.run(
                self._buildah("commit", "--quiet", "--rm", container, BASE_IMAGE), what="committing the base image"
            )

    def build(self, image: ProjectImage, *, base: str) -> None:
        """Build one image. Layers of unchanged instructions come from the storage."""
        arguments: list[str | Path] = ["bud", "--layers", "--isolation", "chroot", "--format", "docker"]
        if base:
            arguments += ["--build-arg", f"BASE={base}"]
        arguments += pip_settings.volumes(self._folder)
        checkout = self._settings.checkout
        arguments += ["--file", checkout / image.containerfile, "--tag", image.name, checkout]
        command.run(
            self._buildah(*arguments),
            what=f"building {image.name}",
            todo=f"the step that failed is in {image.containerfile}",
        )

    def store(self, image: ProjectImage, content: str, store: ImageStore) -> None:
        """Put an image into the store; layers that are there already are not written again."""
        store.layout.mkdir(parents=True, exist_ok=True)
        # Uncompressed: compressing takes longer than everything else, and the layers go to this very machine.
        command.run(
            self._buildah("push", "--quiet", "--disable-compression", image.name, f"oci:{store.layout}:{content}"),
            what=f"storing {image.name}",
            todo=f"is there disk space? Else remove {store.layout.parent}; the next build makes it anew",
        )
        store.add(image.name, content)

    def save(self, image: ProjectImage, target: Path) -> None:
        """Write an image as a docker-archive, the form that kind and minikube load."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # buildah refuses to add to an archive
        command.run(
            self._buildah("push", "--quiet", image.name, f"docker-archive:{target}:{image.name}"),
            what=f"saving {image.name}",
        )

    def push(self, image: ProjectImage, registry: str) -> str:
        """Push an image to a registry and return the name that it has there."""
        there = f"{registry}/{image.name.removeprefix('docker.io/')}"
        command.run(
            self._buildah("push", "--quiet", image.name, f"docker://{there}"),
            what=f"pushing {there}",
            todo=f"`buildah login {registry.partition('/')[0]}`, and check IMAGE_REGISTRY",
        )
        return there

    def tidy(self) -> None:
        """Drop containers of interrupted builds and, when there are many images, the layers nobody refers to."""
        if self._ask("containers", "-q"):
            command.succeeds(self._buildah("rm", "--all"))
        if len(self._ask("images", "--all", "-q").split()) > _MANY_IMAGES:
            command.succeeds(self._buildah("rmi", "--prune"))

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(part) for part in self._buildah(*arguments)], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()


def require_buildah() -> None:
    """Stop where there is no buildah; `up` installs it on Debian, an existing cluster's machine may have none."""
    if not shutil.which("buildah"):
        raise ClusterError(
            "buildah is not installed, it builds the images",
            todo="install it (`apt-get install buildah`), or build with another tool in the checkout's root, "
            "for example `docker build -f operator/Containerfile -t docker.io/windlass/operator:dev .`",
        )
