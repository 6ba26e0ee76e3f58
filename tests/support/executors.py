"""Runs executed by threads of the test's process over the real protocol: thousands, without as many processes."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Self
from uuid import uuid4

import msgspec

from tests.support.world import World, a_step
from windlass import protocol
from windlass.errors import AttemptClosedError
from windlass.transport import HttpTransport
from windlass_runner.api import ApiClient, Refused

_SLOTS: Final = 8
_PATIENCE: Final = 120.0


class Executors:
    """Claims, runs and completes what the world's pods find.

    Attributes:
        bodies: How often each step's body was begun, by run and key.
        again: Bodies that were begun although their checkpoint had been committed: there must be none.
        completed: Monotonic times at which completions were acknowledged.
        lost: Attempts that were closed by somebody else.
    """

    def __init__(self, world: World, url: str, *, threads: int = 8, steps: int = 2) -> None:
        self._world = world
        self._url = url
        self._steps = steps
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._committed: set[tuple[str, str]] = set()
        self.bodies: Counter[tuple[str, str]] = Counter()
        self.again: list[tuple[str, str]] = []
        self.completed: list[float] = []
        self.errors: list[BaseException] = []
        self.lost = 0
        self._taken: set[str] = set()
        self._idle: list[protocol.ClaimRequest] = []
        """Of pods that have found nothing yet. A real one would end, and be seen to."""
        self._clients: list[ApiClient] = []
        self._threads = [threading.Thread(target=self._guarded, args=(self._work,)) for _ in range(threads)]
        self._threads.append(threading.Thread(target=self._guarded, args=(self._beat,)))

    async def __aenter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for client in self._clients:
            client.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _client(self) -> ApiClient:
        client = ApiClient(self._url)
        self._clients.append(client)
        return client

    async def _pod(self) -> protocol.ClaimRequest | None:
        if self._idle:
            return self._idle.pop()
        seen = next((p for p in self._world.cluster.pods.values() if p.uid not in self._taken), None)
        if seen is None:
            return None
        self._taken.add(seen.uid)
        return protocol.ClaimRequest(
            pod_uid=seen.uid, pod_name=seen.name, claim_id=str(uuid4()), slots=_SLOTS, wait_ms=100
        )

    def _work(self) -> None:
        api = self._client()
        while not self._stop.is_set():
            asked: Future[protocol.ClaimRequest | None] = asyncio.run_coroutine_threadsafe(self._pod(), self._loop)
            request = asked.result()
            if request is None:
                self._stop.wait(0.02)
                continue
            credential = next(iter(self._world.cluster.credentials.values()))
            answer = api.call(
                "/claim",
                request,
                token=credential,
                patience=_PATIENCE,
                retry_codes=frozenset({"PodUnknown"}),
                stop=self._stop.is_set,
            )
            attempts = msgspec.json.decode(answer, type=protocol.ClaimResponse).attempts
            if not attempts:
                self._idle.append(request)
            with self._lock:
                self._open |= {attempt.token for attempt in attempts}
            for attempt in attempts:
                self._run(api, attempt)

    def _run(self, api: ApiClient, attempt: protocol.ClaimedAttempt) -> None:
        transport = HttpTransport(self._url, attempt.token)
        done = {step.key for step in attempt.steps}
        try:
            for n in range(self._steps):
                key = (attempt.run_id, f"step-{n}")
                if key[1] in done:
                    continue
                with self._lock:
                    self.bodies[key] += 1
                    if key in self._committed:
                        self.again.append(key)
                transport.save_steps([a_step(key[1])])
                with self._lock:
                    self._committed.add(key)
            request = protocol.CompleteRequest(result=msgspec.Raw(b"1"))
            api.call("/complete", request, token=attempt.token, patience=_PATIENCE)
            self.completed.append(time.monotonic())
        except (AttemptClosedError, Refused):
            self.lost += 1
        finally:
            transport.close()
            with self._lock:
                self._open.discard(attempt.token)

    def _beat(self) -> None:
        api = self._client()
        while not self._stop.wait(2.0):
            with self._lock:
                tokens = list(self._open)
            if tokens:
                beats = [protocol.Beat(token=token) for token in tokens]
                api.call(
                    "/heartbeat",
                    protocol.HeartbeatRequest(beats=beats),
                    patience=_PATIENCE,
                    timeout=5.0,
                    stop=self._stop.is_set,
                )
