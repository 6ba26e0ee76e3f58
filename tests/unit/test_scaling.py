"""How many pods a pool has, of which keys, and which of them leave."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from windlass_operator.domain.scaling import KeyState, PodState, PoolSpec, Scaling, scale

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POOL = PoolSpec(
    min_replicas=0,
    max_replicas=10,
    replicas=None,
    standby=0,
    slots=1,
    scale_down_after=5 * MINUTE,
    template_hash="now",
)


def a_pod(n: int, key: str = "a", **changes: Any) -> PodState:
    """Return a pod that is up and has been idle for a minute."""
    base = PodState(UUID(int=n), key, "now", NOW - 9 * MINUTE, ready=True, idle_since=NOW - MINUTE)
    return replace(base, **changes)


def busy(n: int, key: str = "a", *, open: int = 1, **changes: Any) -> PodState:  # noqa: A002 - the field's name
    return a_pod(n, key, open=open, idle_since=None, **changes)


def a_key(key: str = "a", ready: int = 0, *, age: int = 1, head: bool = True, **changes: Any) -> KeyState:
    oldest = NOW - age * MINUTE if ready else None
    return KeyState(key, ready, oldest, head, **changes)


def scaled(spec: PoolSpec, keys: list[KeyState], pods: list[PodState] | None = None, **more: Any) -> Scaling:
    return scale(spec, keys, pods or [], starting_limit=more.get("limit", 100), now=NOW)


def started(spec: PoolSpec, keys: list[KeyState], pods: list[PodState] | None = None, **more: Any) -> Mapping[str, int]:
    return scaled(spec, keys, pods, **more).start


def drained(spec: PoolSpec, keys: list[KeyState], pods: list[PodState]) -> list[int]:
    found = scaled(spec, keys, pods)
    return sorted(pod.int for pod in (*found.drain_idle, *found.drain))


def test_slots_are_shared_and_rounded_up() -> None:
    spec = replace(POOL, slots=4)

    assert started(spec, [a_key(ready=9)]) == {"a": 3}
    assert started(spec, [a_key(ready=2)], [busy(1, open=2)]) == {}
    assert started(spec, [a_key(ready=3)], [busy(1, open=2)]) == {"a": 1}


def test_nothing_to_do_is_no_pod() -> None:
    assert scaled(POOL, [a_key()]).desired == 0


def test_a_pool_keeps_its_fewest_and_its_free_slots_for_the_newest_versions() -> None:
    spec = replace(POOL, min_replicas=2, slots=2, standby=3)

    assert started(spec, [a_key(), a_key("old", head=False)]) == {"a": 2}
    assert started(spec, [a_key(ready=4)]) == {"a": 4}, "two for the runs, two for three free slots"
    assert scaled(spec, [a_key(head=False)]).desired == 0, "no Task needs it"


def test_spare_pods_are_spread_over_the_tasks_images_and_stay_where_they_are() -> None:
    spec = replace(POOL, min_replicas=3)

    assert started(spec, [a_key("a"), a_key("b")]) == {"a": 2, "b": 1}
    assert started(spec, [a_key("a"), a_key("b")], [a_pod(1, "b"), a_pod(2, "b")]) == {"a": 1}


def test_the_most_binds_and_the_oldest_goes_first_but_each_key_gets_one() -> None:
    spec = replace(POOL, max_replicas=3)

    assert started(spec, [a_key("a", 50, age=1), a_key("b", 50, age=9)]) == {"b": 2, "a": 1}
    many = [a_key(name, 1, age=age) for age, name in enumerate("abcde")]
    assert started(spec, many) == {"e": 1, "d": 1, "c": 1}


def test_a_full_pool_drains_idle_pods_of_one_key_to_make_room_for_another() -> None:
    spec = replace(POOL, max_replicas=3)
    pods = [a_pod(1), a_pod(2, idle_since=NOW - 2 * MINUTE), busy(3)]

    assert drained(spec, [a_key("a"), a_key("b", 1)], pods) == [2]
    assert drained(spec, [a_key("a"), a_key("b", 1)], [replace(pods[1], draining=True), *pods[::2]]) == []


def test_a_full_and_busy_pool_lets_one_pod_finish_for_the_key_that_has_none() -> None:
    spec = replace(POOL, max_replicas=2)
    pods = [busy(1, open=3), busy(2, open=1)]
    found = scaled(replace(spec, slots=4), [a_key("a", 90), a_key("b", 1)], pods)

    assert (list(found.drain), found.drain_idle, found.start) == ([UUID(int=2)], [], {})


def test_growth_is_bounded_within_a_second() -> None:
    spec = replace(POOL, max_replicas=100)
    just_now = NOW - timedelta(milliseconds=300)

    assert started(spec, [a_key(ready=90)]) == {"a": 4}
    new = [a_pod(n, created_at=just_now, ready=False, idle_since=None) for n in range(3)]
    assert started(spec, [a_key(ready=90)], new) == {"a": 1}
    assert started(spec, [a_key(ready=90)], [busy(n) for n in range(20)]) == {"a": 20}, "twice as many"
    assert started(spec, [a_key(ready=90)], limit=2) == {"a": 2}


def test_a_pod_leaves_when_it_has_been_idle_for_long_and_never_below_the_fewest() -> None:
    pods = [a_pod(1, idle_since=NOW - 5 * MINUTE), a_pod(2, idle_since=NOW - 6 * MINUTE), a_pod(3), busy(4)]

    assert drained(POOL, [a_key()], pods) == [1, 2]
    assert drained(replace(POOL, min_replicas=3), [a_key()], pods) == [2]
    assert drained(POOL, [a_key(ready=2)], pods) == [2], "two of the three idle ones are about to be used"


def test_pods_of_old_versions_leave_as_soon_as_they_are_idle() -> None:
    pods = [a_pod(1, "old"), busy(2, "old")]

    assert drained(POOL, [a_key("new"), a_key("old", head=False)], pods) == [1]


def test_a_pod_that_never_came_up_and_is_not_needed_leaves_too() -> None:
    pods = [a_pod(1, ready=False, idle_since=None), a_pod(2, ready=False, idle_since=None, created_at=NOW - MINUTE)]

    assert drained(POOL, [a_key()], pods) == [1]


def test_a_given_number_is_held_exactly() -> None:
    spec = replace(POOL, replicas=2, max_replicas=1, min_replicas=1)

    assert started(spec, [a_key(ready=50)]) == {"a": 2}
    assert started(spec, [a_key()]) == {"a": 2}
    assert drained(spec, [a_key(ready=50)], [busy(1), a_pod(2), busy(3), busy(4)]) == [1, 2]
    assert drained(replace(spec, replicas=0), [a_key(ready=50)], [busy(1)]) == [1]


def test_a_pool_that_is_gone_drains_everything() -> None:
    assert drained(replace(POOL, exists=False, min_replicas=3), [a_key(ready=5)], [busy(1), a_pod(2)]) == [1, 2]
    assert started(replace(POOL, exists=False), [a_key(ready=5)]) == {}


def test_a_new_template_brings_new_pods_before_the_old_ones_leave() -> None:
    old = [busy(n, template_hash="before") for n in (1, 2)]
    keys = [a_key(ready=2)]
    first = scaled(replace(POOL, max_replicas=4), keys, old)
    assert (first.start, first.drain) == ({"a": 3}, []), "four, and one more while the template changes"

    coming = [a_pod(n, ready=False, idle_since=None) for n in (3, 4, 5)]
    assert drained(replace(POOL, max_replicas=4), keys, [*old, *coming]) == []
    up = [busy(3), busy(4), a_pod(5)]
    assert drained(replace(POOL, max_replicas=4), [a_key()], [*old, *up]) == [1], "four are in use, and five are there"


def test_idle_pods_of_an_old_template_leave_at_once_where_nothing_needs_them() -> None:
    assert drained(POOL, [a_key()], [a_pod(1, template_hash="before")]) == [1]


def test_a_pod_that_is_old_is_replaced_before_it_stops_to_take_runs() -> None:
    spec = replace(POOL, max_replicas=1, slots=4, max_age=10 * MINUTE)
    old = busy(1, created_at=NOW - 9 * MINUTE)

    assert started(spec, [a_key(ready=3)], [old]) == {"a": 1}
    assert drained(spec, [a_key(ready=3)], [old, a_pod(2, created_at=NOW)]) == [1]
    assert started(spec, [a_key(ready=3)], [replace(old, created_at=NOW - 8 * MINUTE)]) == {}


def test_a_key_whose_pods_fail_is_tried_once_after_each_backoff_and_takes_no_others_place() -> None:
    spec = replace(POOL, max_replicas=4)
    failing = a_key("a", 50, age=9, backoff_until=NOW + MINUTE)

    assert started(spec, [failing, a_key("b", 50)]) == {"b": 3}
    due = replace(failing, backoff_until=NOW - MINUTE)
    assert started(spec, [due]) == {"a": 1}
    assert started(spec, [due], [a_pod(1, ready=False, idle_since=None)]) == {}
    assert started(spec, [due], [busy(1)]) == {"a": 3}, "one is up: it is well again"


def test_a_pod_that_is_not_in_the_cluster_yet_is_left_to_whoever_posts_it() -> None:
    planned = a_pod(1, posted=False, ready=False, idle_since=None)

    assert drained(replace(POOL, exists=False), [a_key()], [planned]) == []
