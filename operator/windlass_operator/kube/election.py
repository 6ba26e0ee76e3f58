"""Leader election by a Lease, over our own client.

``kubernetes.aio.leaderelection`` was read first and is not used, for five reasons: a reset connection (no
``ApiException``) ends leadership at once; one call may take five minutes, so the renew deadline does not hold; times
are local ones written as UTC; a leader whose work has ended or crashed renews for ever; and nothing is released on
exit, so each restart costs the successor a whole lease.

A Lease bounds how long two leaders overlap, it does not fence: the epoch row in the ledger does that.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from windlass_operator.domain.errors import WindlassError
from windlass_operator.kube.errors import KubeError
from windlass_operator.kube.kinds import LEASES, Kind

Object = dict[str, Any]


class LeadershipLostError(WindlassError):
    """The Lease could not be renewed in time, or is another's. The process must end and start again as a candidate."""

    code, http_status, retryable = "LeadershipLost", 503, True


class LeaseClient(Protocol):
    """The three calls of :class:`~windlass_operator.kube.client.KubeClient` that an election needs."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return the Lease, or None."""

    async def create(self, kind: Kind, namespace: str | None, body: Object) -> Object:
        """Create the Lease."""

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Object) -> Object | None:
        """Change the Lease if its version is still the one in the body."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of an election.

    Attributes:
        lease: Silence after which a candidate takes over.
        renew_deadline: How long a leader tries to renew before it gives up. Below ``lease``, so that it has stopped
            before a successor starts.
        retry: Between looks and between renewals.
    """

    lease: float = 15
    renew_deadline: float = 10
    retry: float = 2


DEFAULT_TIMES: Final = Times()


async def lead(
    client: LeaseClient,
    *,
    namespace: str,
    name: str,
    identity: str,
    on_started: Callable[[Callable[[], None]], Awaitable[None]],
    times: Times = DEFAULT_TIMES,
) -> None:
    """Wait for leadership, then run ``on_started`` for as long as it lasts.

    Returns when ``on_started`` returns, and raises what it raises. However this ends, the Lease is given back only
    after ``on_started`` has ended, so that a successor neither waits for a lease to run out nor meets us.

    Args:
        client: Reaches the Lease.
        namespace: Where the Lease is.
        name: Of the Lease.
        identity: Of this process; another process with the same one would be taken for it.
        on_started: The leader's work. It is given a guard to be called before each write that nothing else fences: it
            raises :class:`LeadershipLostError` once the Lease may be another's.
        times: Other periods, for tests.

    Raises:
        LeadershipLostError: The Lease was lost while ``on_started`` ran; it has been cancelled.
    """
    election = _Election(client, namespace, name, identity, times)
    try:
        await election.wait()
    except asyncio.CancelledError:
        await election.release()  # the call that was cut off may have taken it
        raise
    work = asyncio.ensure_future(on_started(election.guard))
    renewal = asyncio.ensure_future(election.renew_until_lost())
    try:
        await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return await work
        raise LeadershipLostError(
            f"{identity} lost the Lease {namespace}/{name}: {renewal.result()}. The process ends and stands again."
        )
    finally:
        lost = renewal.done()
        # What is left of the lease is what the work has to end in; beyond it a successor may already be at work.
        await _end(work, within=times.lease - times.renew_deadline)
        await _end(renewal, within=times.retry)
        if not lost and work.done():
            await election.release()


class _Election:
    """What one candidate knows of the Lease."""

    def __init__(self, client: LeaseClient, namespace: str, name: str, identity: str, times: Times) -> None:
        self._client = client
        self._namespace, self._name, self._identity = namespace, name, identity
        self._times = times
        self._seen: Object = {}
        self._seen_at = 0.0
        """By our own clock: the holder's clock may be wrong, so only changes of its entry count, not its times."""
        self._renewed_at = 0.0
        """When the last successful renewal was *begun*: a candidate's count may start as early as that."""

    async def wait(self) -> None:
        while not await self._tried():
            await self._pause()

    async def renew_until_lost(self) -> str:
        """Renew, and return why that came to an end."""
        while (left := self._renewed_at + self._times.renew_deadline - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                # A call that outlives the deadline would let us lead after a successor has begun.
                async with asyncio.timeout(left):
                    await self._pause()
                    if not await self._tried() and self._holder() not in (None, self._identity):
                        return f"{self._holder()} holds it"
        return f"no renewal for {self._times.renew_deadline:g} s"

    def guard(self) -> None:
        """Require that no successor can have begun.

        Asked of the clock, not of the loop that renews: in a process that stood still, that loop comes too late.

        Raises:
            LeadershipLostError: The last renewal is longer ago than a leader may go without one.
        """
        silent = time.monotonic() - self._renewed_at
        if silent >= self._times.renew_deadline:
            raise LeadershipLostError(
                f"{self._identity} has not renewed the Lease {self._namespace}/{self._name} for {silent:.0f} s: "
                "another may lead by now. Nothing is written."
            )

    async def release(self) -> None:
        """Give the Lease back if it is ours. Best effort: else the successor waits until it has run out."""
        gone = {"holderIdentity": None, "renewTime": None, "acquireTime": None}
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(self._times.retry):
                # Read again: a renewal that was cut off may have made a version that we have not seen.
                self._see(await self._client.get(LEASES, self._namespace, self._name) or {})
                if self._holder() == self._identity:
                    await self._write(self._seen, gone)

    async def _tried(self) -> bool:
        """Take or renew the Lease; return whether we hold it now."""
        begun = time.monotonic()
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
            if lease is None:
                self._see(await self._client.create(LEASES, self._namespace, self._entry()))
            else:
                if lease != self._seen:
                    self._see(lease)
                alive = time.monotonic() < self._seen_at + self._times.lease
                if alive and self._holder() not in (None, self._identity):
                    return False
                if not await self._write(lease, self._entry(lease)["spec"]):
                    return False
        except KubeError:
            # Taken by another in between, or no answer: the next look tells.
            return False
        self._renewed_at = begun
        return True

    async def _write(self, lease: Object, spec: Object) -> bool:
        version = (lease.get("metadata") or {}).get("resourceVersion")
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        written = await self._client.patch(LEASES, self._namespace, self._name, body)
        if written is not None:
            self._see(written)
        return written is not None

    def _entry(self, lease: Object | None = None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._times.lease),
            "renewTime": now,
        }
        old = (lease or {}).get("spec") or {}
        if old.get("holderIdentity") != self._identity:
            spec |= {"acquireTime": now, "leaseTransitions": int(old.get("leaseTransitions") or 0) + bool(lease)}
        return {"metadata": {"name": self._name}, "spec": spec}

    def _see(self, lease: Object) -> None:
        self._seen, self._seen_at = lease, time.monotonic()

    def _holder(self) -> str | None:
        return (self._seen.get("spec") or {}).get("holderIdentity") or None

    async def _pause(self) -> None:
        # Jitter, so that candidates do not ask in step.
        await asyncio.sleep(self._times.retry * random.uniform(1, 1.2))  # noqa: S311


async def _end(task: "asyncio.Future[Any]", *, within: float) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=within)
    for ended in done:
        if not ended.cancelled():
            ended.exception()  # looked at, so that it is not reported as never retrieved; the caller raises its own
