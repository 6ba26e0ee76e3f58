"""Peers that are Go modules: built once from the pinned module, and kept in the cache beside the cluster's programs."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from e2e.cluster import command
from e2e.cluster.errors import ClusterError
from e2e.cluster.programs import find_go
from e2e.cluster.progress import stage
from e2e.cluster.settings import Settings

_NICE: Final = ("nice", "-n", "10")
"""A build of minutes must not take the machine from whoever else uses it."""


@dataclass(frozen=True)
class GoModule:
    """A module at one version, and what is wanted of it.

    Attributes:
        name: Of its folder in the cache.
        path: Of the module.
        version: Of the module.
        sum: Hash of its content, as Go writes it. The module's own go.sum pins all that it needs.
        programs: Package of each program, by the program's name.
        folders: What is kept of its sources beside the programs: schemas, manifests.
        ldflags: For the linker.
        links: Files that are symbolic links in its repository, by what they point at. A module has none of these.
    """

    name: str
    path: str
    version: str
    sum: str
    programs: tuple[tuple[str, str], ...]
    folders: tuple[str, ...]
    ldflags: str = "-s -w"
    links: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def folder(self, cache: Path) -> Path:
        """Return where exactly this, built for this kind of machine, lies or would lie."""
        content = "\0".join([str(self), os.uname().machine, *map(str, self.links)])
        return cache / "bin" / f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def built(self) -> Path:
        """Return the folder with the programs and folders; build it first, if it is not there.

        Raises:
            ClusterError: There is no Go that is new enough, the module is not the pinned one, or the build failed.
        """
        target = self.folder(Settings.from_environment().cache)
        if not target.exists():
            go = find_go()
            with stage(f"built {self.name} {self.version}"):
                self._build(go, target)
        return target

    def check(self, found: str) -> None:
        """Make sure that a downloaded module is the pinned one.

        Raises:
            ClusterError: It is not.
        """
        if found != self.sum:
            raise ClusterError(f"{self.path} {self.version} has the hash {found}; pinned is {self.sum}")

    def _build(self, go: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        environment["GOTOOLCHAIN"] = "local"
        download = [str(go), "mod", "download", "-json", f"{self.path}@{self.version}"]
        done = subprocess.run(download, capture_output=True, text=True, check=False, env=environment, cwd="/")
        if done.returncode != 0:
            raise ClusterError(f"{self.path} {self.version} cannot be downloaded: {done.stdout}{done.stderr}")
        module = json.loads(done.stdout)
        self.check(module["Sum"])
        # Built in a copy, not with `go install MODULE@VERSION`: that refuses a module whose go.mod replaces another.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            sources, made = Path(scratch) / "sources", Path(scratch) / "made"
            shutil.copytree(module["Dir"], sources, copy_function=shutil.copyfile)
            _writable(sources)
            for link, pointed_at in self.links:
                shutil.copyfile(sources / pointed_at, sources / link)
            for program, package in self.programs:
                command.run(
                    [*_NICE, go, "build", "-trimpath", "-ldflags", self.ldflags, "-o", made / program, package],
                    what=f"building {program} from source",
                    folder=sources,
                    environment=environment,
                    todo="is the Go module proxy reachable (`go env GOPROXY`), and is there disk space (`df -h ~`)?",
                )
            for folder in self.folders:
                shutil.copytree(sources / folder, made / folder)
            if not target.exists():
                made.rename(target)


def _writable(folder: Path) -> None:
    """Let a copy of Go's module cache be removed again: its folders are read-only."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


TEMPORAL: Final = GoModule(
    "temporal",
    "go.temporal.io/server",
    "v1.31.2",
    "h1:0O4zQ0NGRit2Z32s1XUHfs9k8zSKqff2n1QvFttYN0M=",
    programs=(("temporal-server", "./cmd/server"), ("temporal-sql-tool", "./cmd/tools/sql")),
    folders=("schema/postgresql/v12",),
)
_OF_SYSTEMS: Final = "workflow/executor/osspecific"
ARGO: Final = GoModule(
    "argo",
    "github.com/argoproj/argo-workflows/v3",
    "v3.7.0",
    "h1:TDijZztm6dLruB7yZLH+Ps4OJKRwu0YSAJ4/NvceON0=",
    programs=(("workflow-controller", "./cmd/workflow-controller"), ("argoexec", "./cmd/argoexec")),
    folders=("manifests/base", "manifests/cluster-install-no-crds"),
    ldflags="-s -w -X github.com/argoproj/argo-workflows/v3.version=v3.7.0",
    links=((f"{_OF_SYSTEMS}/signal_linux.go", f"{_OF_SYSTEMS}/signal_darwin.go"),),
)
