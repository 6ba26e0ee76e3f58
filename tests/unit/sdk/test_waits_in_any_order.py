"""Branches, steps and waits: the waits end in any order, processes die at any write, and each step runs once."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.history import History
from windlass import protocol, step, task
from windlass.waits import begin

Node = tuple[str, Any]
LEAVES = st.sampled_from([("step", None), ("wait", None)])
PROGRAMS = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.sampled_from(["one after the other", "gather", "group"]), st.lists(inner, max_size=3)),
    max_leaves=6,
)


class Killed(BaseException):
    """The process dies."""


def program(tree: Node, ran: list[str]) -> Any:
    """Return a task that does what the tree says, and names each place by its path in the tree."""

    @step
    async def work(place: str) -> str:
        ran.append(place)
        return f"did {place}"

    async def do(node: Node, place: str) -> Any:
        kind, inner = node
        if kind == "step":
            return await work(place)
        if kind == "wait":
            ended = await begin("wait", "event", arguments=place, target=place).result()
            return bytes(ended.result).decode()
        parts = (do(child, f"{place}.{n}") for n, child in enumerate(inner))
        if kind == "gather":
            return await asyncio.gather(*parts)
        if kind == "group":
            async with asyncio.TaskGroup() as group:
                started = [group.create_task(part) for part in parts]
            return [one.result() for one in started]
        return [await part for part in parts]

    @task
    async def main() -> Any:
        return await do(tree, "0")

    return main


def expected(node: Node, place: str = "0") -> Any:
    kind, inner = node
    if kind == "step":
        return f"did {place}"
    if kind == "wait":
        return f'"for {place}"'
    return [expected(child, f"{place}.{n}") for n, child in enumerate(inner)]


def steps_of(node: Node, place: str = "0") -> list[str]:
    kind, inner = node
    if kind == "step":
        return [place]
    return [] if kind == "wait" else [s for n, child in enumerate(inner) for s in steps_of(child, f"{place}.{n}")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROGRAMS, st.data())
def test_waits_may_end_in_any_order(tree: Node, data: st.DataObject) -> None:
    history, ran = History(), list[str]()
    main = program(tree, ran)
    for number in range(1, 30):
        finished = history.run(main, number=number)
        if not finished.suspended:
            break
        assert set(history.suspended[-1][0]) <= set(history.waits), "it waits for what is not over"
        over = data.draw(st.sets(st.sampled_from(sorted(history.waits)), min_size=1))
        for key in over:
            history.end_wait(key, f"for {history.waits[key].target}")
    assert finished.complete is not None, finished
    assert history.value(main, number=99) == expected(tree)
    assert sorted(ran) == sorted(steps_of(tree)), "each step ran once"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROGRAMS, st.data())
def test_processes_may_die_at_any_write(tree: Node, data: st.DataObject) -> None:
    history, ran = History(), list[str]()
    main = program(tree, ran)
    plain_save, plain_begin = history.save_steps, history.begin_waits
    dies_at = data.draw(st.lists(st.integers(0, 5), max_size=4))
    left = [0]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def save(steps: Any) -> None:
        plain_save(steps)
        count()

    def begin_waits(waits: Any, keys: Any) -> list[protocol.Step]:
        over = plain_begin(waits, keys)
        count()
        return over

    history.save_steps, history.begin_waits = save, begin_waits  # type: ignore[method-assign]
    for number in range(1, 60):
        left[0] = dies_at.pop() + 1 if dies_at else -1
        finished = history.run(main, number=number)
        if finished.complete is not None:
            break
        if finished.suspended:
            key = data.draw(st.sampled_from(sorted(history.waits)))
            history.end_wait(key, f"for {history.waits[key].target}")
    left[0] = -1
    assert history.value(main, number=99) == expected(tree)
    assert sorted(ran) == sorted(steps_of(tree)), "a step whose checkpoint is saved never runs again"
