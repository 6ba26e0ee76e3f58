"""Whether pods and Run resources are what the ledger says of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.ledger import outside
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.invariants import FIRST, LAST, Broken
from windlass_operator.ledger.outside import Believed, ResourceFacts
from windlass_operator.resources.reasons import Reason
from windlass_operator.services.invariants import LATE
from windlass_operator.services.outside import POD_CHECKS, RUN_CHECKS, SETTLED

_PAGE: Final = 1000
_RUNS: Final = 5000
"""Runs that are looked through in one snapshot for those that must have a resource; most have ended."""
_PROVEN: Final = 100
"""Things missing from a list that are asked for one by one, since only that is proof. If more are missing, it is no
moment's gap in a list, and asking for each would be a burden."""
_ASK_AT_ONCE: Final = 8


class PodReader(Protocol):
    """What the look at pods needs of Kubernetes."""

    async def list_pods(self) -> list[PodSeen]:
        """Return all pods that are ours."""
        ...

    async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
        """Look at one pod; None only where the API server says that there is none."""
        ...


class RunReader(Protocol):
    """What the look at Run resources needs of Kubernetes."""

    def each_run(self) -> AsyncIterator[RunSeen]:
        """Yield all Run resources of the watched namespaces."""
        ...

    async def run_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Run with this name; None only where the API server says that there is none."""
        ...


class PodLook:
    """Pods, and the attempts in them.

    Args:
        database: The ledger.
        cluster: Kubernetes.
        namespaces: The listed ones, empty for the whole cluster. What is in others cannot be seen.
        settled: Age from which a pod must be in a list.
        late: After what time a pod that should have gone is left over.
    """

    checks = POD_CHECKS
    patient = True

    def __init__(
        self,
        database: Database,
        cluster: PodReader,
        *,
        namespaces: Sequence[str] = (),
        settled: timedelta = SETTLED,
        late: timedelta = LATE,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._namespaces = namespaces
        self._settled = settled
        self._late = late

    async def find(self) -> list[Broken]:
        """Return where pods and ledger differ."""
        # The ledger's side first: what is begun after the list was read is then not missed in it.
        attempts = [attempt async for attempt in self._open_attempts() if self._visible(attempt)]
        alive = [pod for pod in await outside.alive_pods(self._database, settled=self._settled) if self._visible(pod)]
        listed = {seen.uid: seen for seen in await self._cluster.list_pods()}
        doubted = {pod.uid: pod for pod in (*attempts, *alive) if pod.uid is not None and pod.uid not in listed}
        gone = {pod.uid for pod in await _proven_absent(list(doubted.values()), self._uid_of_pod)}
        ended = {uid for uid, seen in listed.items() if seen.ended}
        found = [_lost(attempt, gone, ended) for attempt in attempts]
        found += [
            Broken("pods_there", None, f"Pod {pod.namespace}/{pod.name} is not there.", pod.namespace)
            for pod in alive
            if pod.uid in gone
        ]
        return [broken for broken in found if broken is not None] + await self._not_ours(list(listed.values()))

    async def _open_attempts(self) -> AsyncIterator[Believed]:
        after: UUID = FIRST
        while page := await outside.open_attempts(self._database, after=after, size=_PAGE, settled=self._settled):
            for attempt in page:
                yield attempt
            after = page[-1].run_id or after

    async def _not_ours(self, pods: list[PodSeen]) -> list[Broken]:
        found = []
        for start in range(0, len(pods), _PAGE):
            some = pods[start : start + _PAGE]
            facts = await outside.pods_seen(
                self._database, [(pod.uid, pod.namespace, pod.name) for pod in some], late=self._late
            )
            for pod in some:
                what, known = f"Pod {pod.namespace}/{pod.name}", facts[pod.uid]
                if not known.known:
                    message = f"{what} (UID {pod.uid}) is not in the ledger."
                    found.append(Broken("pods_known", None, message, pod.namespace))
                elif known.left_over:
                    message = f"{what} should not be there since {known.over_since}."
                    found.append(Broken("pods_left_over", None, message, pod.namespace))
        return found

    def _visible(self, pod: Believed) -> bool:
        return not self._namespaces or pod.namespace in self._namespaces

    async def _uid_of_pod(self, pod: Believed) -> str | None:
        seen = await self._cluster.see_pod(pod.namespace, pod.name)
        return None if seen is None or not seen.exists else seen.uid


def _lost(attempt: Believed, gone: set[str | None], ended: set[str]) -> Broken | None:
    """Return what is wrong with the pod of an open attempt."""
    what = f"Attempt {attempt.attempt} is open, and its pod {attempt.namespace}/{attempt.name}"
    if attempt.uid is None:
        what = f"Attempt {attempt.attempt} is open, and in no pod that was created."
    elif attempt.uid in gone:
        what += " is not there."
    elif attempt.uid in ended:
        what += " has ended."
    else:
        return None
    return Broken("attempt_pods", attempt.run_id, what, attempt.namespace)


class RunLook:
    """Run resources, and the runs that they show.

    Args:
        database: The ledger.
        cluster: Kubernetes.
        namespaces: The listed ones, empty for the whole cluster. What is in others cannot be seen.
        settled: Age from which a resource must be in a list.
        late: After what time a Run must have been imported.
    """

    checks = RUN_CHECKS
    patient = True

    def __init__(
        self,
        database: Database,
        cluster: RunReader,
        *,
        namespaces: Sequence[str] = (),
        settled: timedelta = SETTLED,
        late: timedelta = LATE,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._namespaces = namespaces
        self._settled = settled
        self._late = late

    async def find(self) -> list[Broken]:
        """Return where Run resources and ledger differ."""
        found: list[Broken] = []
        seen: set[str] = set()  # only the UIDs, never all resources
        some: list[RunSeen] = []
        async for run in self._cluster.each_run():
            seen.add(run.uid)
            some.append(run)
            if len(some) == _PAGE:
                found += await self._compared(some)
                some = []
        found += await self._compared(some)
        return found + await self._missing(seen)

    async def _compared(self, some: Sequence[RunSeen]) -> list[Broken]:
        wanted = [(run.uid, _uuid(run.run_id), run.created) for run in some]
        facts = await outside.resources_seen(self._database, wanted, late=self._late)
        found = (_difference(run, facts[run.uid]) for run in some if not run.deleting)
        return [broken for broken in found if broken is not None]

    async def _missing(self, seen: set[str]) -> list[Broken]:
        missing: list[Believed] = []
        after = FIRST
        while after != LAST:
            after, page = await outside.unfinished_resources(
                self._database, after=after, size=_RUNS, settled=self._settled
            )
            missing += [run for run in page if run.uid not in seen and self._visible(run)]
        return [
            Broken("resources_there", run.run_id, f"Its Run {run.namespace}/{run.name} is not there.", run.namespace)
            for run in await _proven_absent(missing, lambda run: self._cluster.run_uid(run.namespace, run.name))
        ]

    def _visible(self, run: Believed) -> bool:
        return not self._namespaces or run.namespace in self._namespaces


def _difference(run: RunSeen, facts: ResourceFacts) -> Broken | None:
    """Return what a Run resource shows and should not."""
    what = f"Run {run.namespace}/{run.name}"
    named = _uuid(run.run_id)
    if facts.run_id is None:
        if run.run_id is not None and not facts.named_is_known:
            refused = " LedgerRegressed: it is not run again." if run.reason == Reason.LEDGER_REGRESSED else ""
            message = f"{what} shows run {run.run_id[:80]}, which the ledger does not know.{refused}"
        elif named is not None:
            message = f"{what} shows run {named}, which is not its own."
        elif run.reason is None and facts.is_old:
            message = f"{what} has no run, and does not say why."
        else:
            return None
        return Broken("runs_known", None, message, run.namespace)
    if facts.due:
        return None  # about to be written; one that is late is told by the ledger's own rules
    if run.run_id is not None and named != facts.run_id:
        message = f"{what} shows run {run.run_id[:80]}; its own is this."
        return Broken("runs_known", facts.run_id, message, run.namespace)
    if run.state != facts.state:
        message = f"{what} shows {run.state or 'no state'}; it is {facts.state}."
        return Broken("statuses", facts.run_id, message, run.namespace)
    return None


async def _proven_absent(
    believed: Sequence[Believed], uid_of: Callable[[Believed], Awaitable[str | None]]
) -> list[Believed]:
    """Return those that are not there: a list may lack what is there, so each is asked for, unless there are many."""
    if len(believed) > _PROVEN:
        return list(believed)
    slots = asyncio.Semaphore(_ASK_AT_ONCE)

    async def ask(one: Believed) -> str | None:
        async with slots:
            return await uid_of(one)

    uids = await asyncio.gather(*(ask(one) for one in believed))
    return [one for one, uid in zip(believed, uids, strict=True) if uid != one.uid]


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text is not None else None
    except ValueError:
        return None
