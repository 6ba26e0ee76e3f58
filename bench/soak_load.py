"""Constant load on one ledger: runs through the API, executed by stand-ins of runners, and some by real runners.

A stand-in speaks the runners' protocol from a thread of this process, with a pod of its own for each run as a real one
has. So the ledger sees many more runs than this machine could start runner processes for: each takes a core for a third
of a second.
"""

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from uuid import uuid4

import msgspec

from bench.rest import Caller
from tests.support.rest import ALICE, ROOT
from tests.support.world import SHOP, FakeCluster, World, a_step, a_task
from windlass import protocol
from windlass.transport import HttpTransport
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.services.loops import Loop

_STEPS: Final = 3
_TRIES: Final = 50
_SOURCE: Final = """
from windlass import step, task

@step
def tick(n):
    return n

@task
def main(count):
    for n in range(count):
        tick(n)
    return count
"""


class PodsByTask(FakeCluster):
    """Remembers what each pod was made for, so that each is used by who can run that."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, queue.Queue[PodSeen]] = {"order": queue.Queue(), "job": queue.Queue()}

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        """Create the pod as any, and note it under its task."""
        known = set(self.pods)
        uid = await super().create_pod(plan, parts)
        if uid not in known:
            self.waiting[plan.task].put(self.pods[uid])
        return uid


@dataclass(frozen=True)
class Done:
    """A run that was completed.

    Attributes:
        at: When that was acknowledged, in seconds of the monotonic clock.
        took: Seconds from the trigger until then.
        trigger: Seconds that the trigger took.
        real: Whether a real runner executed it.
    """

    at: float
    took: float
    trigger: float
    real: bool


class Load:
    """The load, while it is entered.

    Args:
        world: Whose operator makes the pods.
        url: Of the API process.
        planning: The operator's loop that makes pods.
        threads: Stand-ins; each triggers a run, then executes one.
    """

    def __init__(self, world: World, url: str, planning: Loop, *, threads: int) -> None:
        self.done: list[Done] = []
        self.errors: list[BaseException] = []
        self._world, self._url, self._planning = world, url, planning
        self._cluster = world.cluster
        assert isinstance(self._cluster, PodsByTask), "pods are asked for by task"
        self._pods = self._cluster.waiting
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._begun: dict[str, tuple[float, float]] = {}
        self._threads = [threading.Thread(target=self._guarded) for _ in range(threads)]
        self._cluster.tasks[SHOP.namespace, "order"] = a_task()
        parts = PodParts(image="runner:test", preload=None, source_hash="1" * 16)
        self._cluster.tasks[SHOP.namespace, "job"] = a_task(entrypoint="job:main", source=_SOURCE, pod=parts)

    async def __aenter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self._tasks = [asyncio.create_task(self._real()), asyncio.create_task(self._project())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for task in self._tasks:
            task.cancel()
        self.errors += [
            e for e in await asyncio.gather(*self._tasks, return_exceptions=True) if isinstance(e, Exception)
        ]
        if self.errors:
            raise RuntimeError(f"the load has failed: {self.errors[0]!r}") from self.errors[0]

    def _guarded(self) -> None:
        caller = Caller(self._url)
        try:
            while not self._stop.is_set():
                self._trigger(caller)
                self._execute(caller)
        except BaseException as error:
            self.errors.append(error)
            self._stop.set()

    def _trigger(self, caller: Caller) -> None:
        began = time.monotonic()
        run = json.loads(caller.call("POST", f"{ROOT}/tasks/order/runs", ALICE, b'{"payload": {"n": 1}}'))["id"]
        self._begun[run] = began, time.monotonic() - began
        self._loop.call_soon_threadsafe(self._planning.wake)

    def _execute(self, caller: Caller) -> None:
        """Be one pod: claim, save steps, complete, end."""
        try:
            seen = self._pods["order"].get(timeout=2)
        except queue.Empty:
            return  # each runs what anybody triggered, not its own: there may be none left
        claim = protocol.ClaimRequest(
            pod_uid=seen.uid, pod_name=seen.name, claim_id=str(uuid4()), slots=1, wait_ms=1000
        )
        attempts = self._claimed(caller, claim)
        if not attempts:  # an end without any run would be a pod that cannot start, which holds its key back
            self._pods["order"].put(seen)
            return
        for attempt in attempts:
            transport = HttpTransport(self._url, attempt.token)
            for n in range(_STEPS):
                transport.save_steps([a_step(f"step-{n}")])
            transport.close()
            body = msgspec.json.encode(protocol.CompleteRequest(result=msgspec.Raw(b"1")))
            caller.call("POST", "/runtime/v1/complete", attempt.token, body)
            began, trigger = self._begun.pop(attempt.run_id)
            now = time.monotonic()
            self.done.append(Done(now, now - began, trigger, real=False))
        asyncio.run_coroutine_threadsafe(self._gone(seen), self._loop).result()

    def _claimed(self, caller: Caller, claim: protocol.ClaimRequest) -> list[protocol.ClaimedAttempt]:
        credential = next(iter(self._cluster.credentials.values()))
        for turn in range(_TRIES):
            try:
                answer = caller.call("POST", "/runtime/v1/claim", credential, msgspec.json.encode(claim))
            except RuntimeError as error:  # its UID is being written down right now
                if "PodUnknown" not in str(error) or turn == _TRIES - 1:
                    raise
                time.sleep(0.01)
                continue
            return msgspec.json.decode(answer, type=protocol.ClaimResponse).attempts
        return []

    async def _gone(self, seen: PodSeen) -> None:
        self._cluster.pods.pop(seen.uid, None)
        await self._world.pods.observe(replace(seen, exists=False, ended=True, succeeded=True))

    async def _real(self) -> None:
        """Run Run resources in real runner processes, one after the other."""
        number = 0
        while True:
            number += 1
            began = time.monotonic()
            run_id = await self._world.apply_run(task="job", name=f"job-{number}", payload=20)
            trigger = time.monotonic() - began
            self._planning.wake()
            seen = await asyncio.to_thread(self._pods["job"].get)
            env: dict[str, Any] = {"WINDLASS_URL": self._url, "POD_NAME": seen.name, "POD_UID": seen.uid}
            env["WINDLASS_CREDENTIAL"] = self._cluster.credentials[seen.namespace]
            command = (sys.executable, "-m", "windlass_runner")
            process = await asyncio.create_subprocess_exec(
                *command, env={**os.environ, **env}, stdout=subprocess.DEVNULL
            )
            await process.wait()
            await self._gone(seen)
            assert run_id is not None, "it is a new name"
            row = await self._world.get(run_id)
            if row["state"] != "Succeeded":
                raise RuntimeError(f"a real runner's run is {row['state']}: {row['message']}")
            now = time.monotonic()
            self.done.append(Done(now, now - began, trigger, real=True))

    async def _project(self) -> None:
        while True:
            if not await self._world.projection.project_due():
                await asyncio.sleep(0.1)
