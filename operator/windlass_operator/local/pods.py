"""Runner processes in the place of pods: one process for one attempt, with everything that it starts."""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import structlog

from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.local.keeping import Lifeline

log = structlog.get_logger()

_REPORT: Final = 3.0
"""Seconds that a runner gets to report, besides those that the user's code gets to end."""
_LINES: Final = 100
_LINE: Final = 1_000
_TELL_AGAIN: Final = (0.0, 0.5, 2.0)
"""Seconds after which the end of a pod is told: the first time its row may not have the UID yet."""
_OURS: Final = ("WINDLASS_", "POD_")

Observe = Callable[[PodSeen], Awaitable[None]]


class SecretNotFoundError(WindlassError):
    """A variable takes its value from a Secret or ConfigMap, of which local mode has none."""

    code, http_status = "SecretNotFound", 422

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Variable {name[:80]!r} comes from a Secret or ConfigMap, which local mode does not have. "
            f"Set {name[:80]} in the environment of `windlass dev` and start it again.",
        )


@dataclass
class _Pod:
    plan: PodPlan
    uid: str
    process: asyncio.subprocess.Process
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    deleted: bool = False

    def seen(self) -> PodSeen:
        code = self.process.returncode
        ended = code is not None
        return PodSeen(
            self.plan.name,
            self.plan.namespace,
            self.uid,
            exists=not (ended and self.deleted),
            ended=ended,
            succeeded=code == 0,
            started=not ended,
            message=_why(code) if code else None,
            exit_code=code,
        )


class LocalPods:
    """Starts runners and sees them end.

    Args:
        folder: Where they run.
        environment: Variables that each gets besides this process's own, such as ``PYTHONPATH``.
        grace: Seconds that user code may go on when its pod is to stop.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, grace: float = 2.0) -> None:
        self.environment = dict(environment)
        self._folder = folder
        self._grace = grace
        self._lifeline = Lifeline()
        self._pods: dict[str, _Pod] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self.observe: Observe | None = None
        """Told of each pod that has ended. A hint: the resync looks by itself."""

    async def create(self, plan: PodPlan, env: Sequence[Mapping[str, Any]], credential: str) -> str:
        """Start the runner of a plan, or find the one that an earlier call started; return its UID.

        Raises:
            SecretNotFoundError: A variable has no value here.
        """
        for pod in self._pods.values():
            if (pod.plan.namespace, pod.plan.name) == (plan.namespace, plan.name):
                return pod.uid
        uid = str(uuid4())
        command = self._lifeline.command([sys.executable, "-m", "windlass_runner"], grace=self._grace + _REPORT)
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._env(plan, uid, env, credential),
            cwd=self._folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(self._lifeline.read,),
            start_new_session=True,  # Ctrl-C in the terminal is for us: we ask the runners to stop in order
        )
        pod = self._pods[uid] = _Pod(plan, uid, process)
        task = asyncio.create_task(self._watch(pod), name=f"pod {plan.name}")
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return uid

    def _env(self, plan: PodPlan, uid: str, env: Sequence[Mapping[str, Any]], credential: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        own |= {**self.environment, "WINDLASS_GRACE": str(self._grace)}
        fields = {"metadata.name": plan.name, "metadata.uid": uid}
        for entry in env:
            name, source = str(entry["name"]), entry.get("valueFrom")
            if source is None:
                own[name] = str(entry.get("value") or "")
            elif "fieldRef" in source:
                own[name] = fields[source["fieldRef"]["fieldPath"]]
            elif name == "WINDLASS_CREDENTIAL":
                own[name] = credential
            elif name not in own and not _optional(source):
                raise SecretNotFoundError(name)
        return own

    async def _watch(self, pod: _Pod) -> None:
        output = asyncio.create_task(_keep_lines(pod))
        await pod.process.wait()
        with contextlib.suppress(TimeoutError):  # the keeper has killed who might hold it open
            await asyncio.wait_for(output, 1)
        if pod.deleted:
            self._pods.pop(pod.uid, None)
        for pause in _TELL_AGAIN:
            await asyncio.sleep(pause)
            if self.observe is not None:
                try:
                    await self.observe(pod.seen())
                except Exception as error:  # the resync looks again
                    log.warning("end of a pod not recorded yet", pod=pod.plan.name, error=str(error)[:200])

    def see(self, namespace: str, name: str) -> PodSeen | None:
        """Look at one pod."""
        return next((seen for seen in self.all() if (seen.namespace, seen.name) == (namespace, name)), None)

    def all(self) -> list[PodSeen]:
        """Return all pods, those that have ended too until they are deleted."""
        return [pod.seen() for pod in self._pods.values()]

    def last_lines(self, uid: str) -> list[str]:
        """Return the last lines that a runner printed."""
        return list(self._pods[uid].lines) if uid in self._pods else []

    def delete(self, uid: str) -> None:
        """Ask a runner to stop and forget it when it has ended; one that is gone is fine."""
        pod = self._pods.get(uid)
        if pod is None:
            return
        pod.deleted = True
        if pod.process.returncode is not None:
            del self._pods[uid]
        else:
            _stop(pod)

    async def close(self, *, patience: float = 5.0) -> None:
        """Stop all runners: each hands its run back. What has not ended after ``patience`` seconds is killed."""
        self.observe = None
        for pod in self._pods.values():
            _stop(pod)
        waiting = [asyncio.create_task(pod.process.wait()) for pod in self._pods.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=patience)
            self._lifeline.close()  # asks who is late a second time, which kills
            if late:
                await asyncio.wait(late, timeout=patience)
        else:
            self._lifeline.close()
        for watch in self._watching:
            watch.cancel()
        await asyncio.gather(*waiting, *self._watching, return_exceptions=True)
        self._pods.clear()


def _stop(pod: _Pod) -> None:
    with contextlib.suppress(ProcessLookupError):
        pod.process.terminate()


async def _keep_lines(pod: _Pod) -> None:
    """Keep the last lines of a runner's output; of a line without an end, the last part."""
    assert pod.process.stdout is not None, "it is a pipe"
    rest = b""
    while chunk := await pod.process.stdout.read(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LINE:]
        pod.lines.extend(line[:_LINE].decode(errors="replace") for line in lines)
    if rest:
        pod.lines.append(rest.decode(errors="replace"))


def _why(code: int) -> str:
    return f"The runner exited with code {code}." if code <= 128 else f"The runner was ended by signal {code - 128}."


def _optional(source: Mapping[str, Any]) -> bool:
    return any(isinstance(ref, Mapping) and bool(ref.get("optional")) for ref in source.values())
