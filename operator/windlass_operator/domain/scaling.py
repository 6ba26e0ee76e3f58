"""How many pods a WorkerPool needs, of which keys, and which of its pods may go. Pure: the pool service writes it.

A pod can only serve the runs of its pod key (image and variables), so what a pool needs is counted key by key.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

_SURGE: Final = 4
"""Pods that a pool may start within a second; one with more than that may double."""
_ROLLING: Final = 4
"""One in so many of a pool's pods, and one at least, may be there beyond its most while its template changes."""
_STARTING: Final = timedelta(minutes=1)
"""How long a pod that nothing waits for any more may be on its way."""
_YOUNG: Final = 0.9
"""Part of a pod's age in which its runner certainly takes runs."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a WorkerPool asks for.

    Attributes:
        replicas: Pods, where somebody else decides; None: we do.
        standby: Slots to keep free beyond what runs need.
        slots: Attempts that one pod may hold at once.
        max_age: How long a pod takes runs. Its runner stops a tenth of it before the end at the earliest, and from then
            on it is replaced as one of another template is.
        exists: Whether the resource is there; without it all pods drain.
    """

    min_replicas: int
    max_replicas: int
    replicas: int | None
    standby: int
    slots: int
    scale_down_after: timedelta
    template_hash: str
    max_age: timedelta | None = None
    exists: bool = True

    @property
    def most(self) -> int:
        """Pods at most, those apart that make room for a new template."""
        if not self.exists:
            return 0
        return self.max_replicas if self.replicas is None else self.replicas

    def outdates(self, pod: "PodState", now: datetime) -> bool:
        """Whether a pod is to be replaced."""
        old = self.max_age is not None and pod.created_at <= now - _YOUNG * self.max_age
        return old or pod.template_hash != self.template_hash


@dataclass(frozen=True, slots=True)
class KeyState:
    """A pod key of the pool.

    Attributes:
        ready: Runs that may start now (:func:`~windlass_operator.domain.gates.admitted`).
        oldest: Rank of the first of them.
        head: Whether the newest version of a Task has this key: pods are kept ready for no other.
        backoff_until: Pods of this key failed; none is started before, and then one at a time.
    """

    key: str
    ready: int = 0
    oldest: datetime | None = None
    head: bool = False
    backoff_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod of the pool that has not ended.

    Attributes:
        open: Attempts that it holds.
        ready: Its runner has asked for work.
        posted: It is known in the cluster; one that is not is left to whoever repeats its POST.
        idle_since: Since when it holds nothing; None: busy, or it never asked.
    """

    id: UUID
    key: str
    template_hash: str
    created_at: datetime
    open: int = 0
    ready: bool = False
    posted: bool = True
    draining: bool = False
    idle_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is to be done.

    Attributes:
        desired: Pods that the pool should have.
        start: How many pods of which keys to start now.
        drain_idle: Pods that drain if they still hold nothing.
        drain: Pods that drain even if they hold something: they end after it.
    """

    desired: int
    start: Mapping[str, int]
    drain_idle: Sequence[UUID] = ()
    drain: Sequence[UUID] = ()


def scale(
    spec: PoolSpec, keys: Sequence[KeyState], pods: Sequence[PodState], *, starting_limit: int, now: datetime
) -> Scaling:
    """Return what a pool needs now.

    Args:
        spec: Of the pool.
        keys: Every key that has runs to start, pods, or a Task of which it is the newest version.
        pods: All pods of the pool that have not ended.
        starting_limit: How many pods may be started, over all pools.
        now: The ledger's time.
    """
    live = [pod for pod in pods if not pod.draining]
    held = {key.key: _held_back(key, live, now) for key in keys}
    wanted = _allocate(spec, keys, live, {key for key, most in held.items() if most is not None})
    fresh = Counter(pod.key for pod in live if not spec.outdates(pod, now))
    short = Counter({key: min(n, n if (most := held[key]) is None else most) for key, n in (wanted - fresh).items()})
    rolling = any(spec.outdates(pod, now) for pod in pods)
    room = max(0, spec.most + (max(1, spec.most // _ROLLING) if rolling and spec.most else 0) - len(pods))
    start = _one_each_first(short, min(starting_limit, room, _surge(pods, now)))
    crowd = short.total() - room - (len(pods) - len(live))
    drain_idle, drain = _drains(spec, keys, wanted, live, crowd=crowd, now=now)
    return Scaling(wanted.total(), start, drain_idle, drain)


def _allocate(spec: PoolSpec, keys: Sequence[KeyState], live: Sequence[PodState], failing: set[str]) -> Counter[str]:
    """Return how many pods each key should have.

    What runs need comes first: each key gets one pod in the order of its oldest run, then more in the same order until
    the pool's most is reached. What is left of ``minReplicas``, ``standby`` or a given number goes to the newest
    versions of Tasks, evenly, and first to where pods are already. A key whose pods fail gets one pod and no more.
    """
    running = Counter[str]()
    for pod in live:
        running[pod.key] += pod.open
    need = {key.key: -(-(key.ready + running[key.key]) // spec.slots) for key in keys}
    need |= {key: min(1, need[key]) for key in failing}
    target = max(sum(need.values()) + -(-spec.standby // spec.slots), spec.min_replicas)
    target = min(target, spec.most) if spec.replicas is None else spec.most
    queue = [k.key for k in sorted(keys, key=lambda k: (k.oldest or _NEVER, k.key)) if need[k.key]]
    wanted = _one_each_first(Counter({key: need[key] for key in queue}), target)
    heads = sorted(key.key for key in keys if key.head)
    if heads:
        each, rest = divmod(target - wanted.total(), len(heads))
        have = Counter(pod.key for pod in live) - wanted
        for i, key in enumerate(sorted(heads, key=lambda key: -have[key])):
            wanted[key] += each + (i < rest)
    return +wanted


def _one_each_first(wanted: Counter[str], limit: int) -> Counter[str]:
    """Return as much as the limit allows: one of each in the order given, then more in the same order."""
    found = Counter[str]()
    for most in (1, None):
        for key, n in wanted.items():
            found[key] += max(0, min((n if most is None else min(most, n)) - found[key], limit - found.total()))
    return +found


def _held_back(key: KeyState, live: Sequence[PodState], now: datetime) -> int | None:
    """Return how many pods of a key that has failed may be started now; None for a key that is well."""
    if key.backoff_until is None:
        return None
    mine = [pod for pod in live if pod.key == key.key]
    if any(pod.ready for pod in mine):
        return None
    return 0 if mine or key.backoff_until > now else 1


def _surge(pods: Sequence[PodState], now: datetime) -> int:
    """Return how many pods may be started now, so that the pool at most doubles within a second, or grows by a few."""
    recent = sum(pod.created_at > now - timedelta(seconds=1) for pod in pods)
    return max(0, max(_SURGE, len(pods) - recent) - recent)


def _drains(
    spec: PoolSpec,
    keys: Sequence[KeyState],
    wanted: Mapping[str, int],
    live: Sequence[PodState],
    *,
    crowd: int,
    now: datetime,
) -> tuple[list[UUID], list[UUID]]:
    """Return the pods that drain only if they still hold nothing, and those that drain whatever they hold.

    Args:
        spec: Of the pool.
        keys: Its keys.
        wanted: How many pods each should have.
        live: Pods that do not drain yet.
        crowd: Pods that other keys need, and for which the pool has no room.
        now: The ledger's time.
    """
    heads = {key.key for key in keys if key.head}
    idle, anyway = list[UUID](), list[UUID]()
    surplus = list[PodState]()
    for key in {pod.key for pod in live}:
        mine = sorted((pod for pod in live if pod.key == key and pod.posted), key=_leaves_first)
        old = [pod for pod in mine if spec.outdates(pod, now)]
        fresh = [pod for pod in mine if not spec.outdates(pod, now)]
        # An old one goes when a new one that is up can take its place: there are never fewer than are needed.
        spare = len(old) + sum(pod.ready for pod in fresh) - wanted.get(key, 0)
        anyway += [pod.id for pod in old[: max(0, spare)]]
        surplus += fresh[: max(0, len(fresh) - wanted.get(key, 0))]
    if spec.replicas is not None or not spec.exists:
        return [], [*anyway, *(pod.id for pod in surplus)]
    for pod in sorted(surplus, key=_leaves_first):
        if pod.open:
            if crowd > 0:
                anyway.append(pod.id)
                crowd -= 1
        elif crowd > 0 or _idle_long(pod, spec, now) or (pod.ready and pod.key not in heads):
            idle.append(pod.id)
            crowd -= 1
    return idle, anyway


def _leaves_first(pod: PodState) -> tuple[object, ...]:
    """Order in which pods leave: who is not up yet, who has been idle longest, who holds least."""
    return pod.open, pod.ready, pod.idle_since or _NEVER, pod.created_at, pod.id


def _idle_long(pod: PodState, spec: PoolSpec, now: datetime) -> bool:
    if not pod.ready:
        return pod.created_at <= now - max(_STARTING, spec.scale_down_after)
    return pod.idle_since is not None and pod.idle_since <= now - spec.scale_down_after
