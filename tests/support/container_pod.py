"""A container task's pod as two processes on this machine: the shim with the command, and the runner beside it."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.world import World, a_task
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.task_snapshot import TaskSnapshot

BUILD: Final = Path(__file__).parents[2] / "runner-image/shim/build.sh"
_OUTPUT: Final = "runner.log"
Process = asyncio.subprocess.Process


def build_shim(target: Path) -> Path:
    """Compile the shim as the runner image does."""
    if not shutil.which("cc"):
        raise RuntimeError("There is no C compiler, which the shim is built with: apt-get install gcc libc6-dev")
    subprocess.run(["sh", str(BUILD), str(target)], check=True)
    return target


def sh(script: str, **changes: Any) -> TaskSnapshot:
    """Return a container task that runs a shell script; one attempt unless ``retry`` says otherwise."""
    parts = PodParts(image="busybox:test", preload=None, source_hash=None, command=["sh", "-c", script])
    base: dict[str, Any] = {"entrypoint": None, "source": None, "pod": parts, "retry": RetryPolicy(max_attempts=1)}
    return a_task(**{**base, **changes})


class ContainerPod:
    """The processes of one pod.

    Attributes:
        runner: The native sidecar.
        main: The shim; its exit code is the main container's.
        folder: What both mount.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._env = env
        self.runner: Process
        self.main: Process

    async def start_runner(self) -> None:
        """Start the sidecar: for the first time, or anew as the kubelet does."""
        with (self.folder / _OUTPUT).open("ab") as output:
            self.runner = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "windlass_runner.sidecar", env=self._env, stdout=output, stderr=output
            )

    async def start_main(self, shim: Path, command: Sequence[str], env: dict[str, str]) -> None:
        """Start the main container's process."""
        self.main = await asyncio.create_subprocess_exec(
            str(shim), str(self.folder), "--", *command, env={"PATH": os.environ["PATH"], **env}
        )

    async def kill(self) -> None:
        """End what is left."""
        for process in (self.main, self.runner):
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def finished(self, seconds: float = 30) -> int:
        """Wait for the end of the main container, end the sidecar as the kubelet does, and return the exit code."""
        code = await asyncio.wait_for(self.main.wait(), seconds)
        if self.runner.returncode is None:
            self.runner.terminate()
        await asyncio.wait_for(self.runner.wait(), 10)
        return code

    def output(self) -> str:
        """Return what the runner has echoed, as ``kubectl logs`` shows it."""
        return (self.folder / _OUTPUT).read_text()


@asynccontextmanager
async def container_pod(
    world: World, url: str, shim: Path, *command: str, env: dict[str, str] | None = None, **runner_env: str
) -> AsyncIterator[ContainerPod]:
    """Start the pods that are due, and the two processes of the newest one.

    Args:
        world: The control plane.
        url: Of the runtime API.
        shim: The compiled shim.
        command: Of the main container; the newest task's when there is none here.
        env: Variables of the main container.
        runner_env: More variables of the runner.
    """
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    (task,) = world.cluster.tasks.values()
    words = command or tuple(task.pod.command or ())
    with _folder() as folder:
        runners_env = {
            **os.environ,
            "WINDLASS_URL": url,
            "POD_NAME": seen.name,
            "POD_UID": seen.uid,
            "WINDLASS_CREDENTIAL": world.cluster.credentials[seen.namespace],
            "WINDLASS_CLAIM_WAIT_MS": "300",
            "WINDLASS_SHARED": str(folder),
            **runner_env,
        }
        pod = ContainerPod(folder, runners_env)
        await pod.start_runner()
        await pod.start_main(shim, words, env or {})
        try:
            yield pod
        finally:
            await pod.kill()


@contextmanager
def _folder() -> Iterator[Path]:
    # Short: the name of a Unix socket has 108 bytes at most.
    with tempfile.TemporaryDirectory(prefix="wl-") as name:
        yield Path(name)
