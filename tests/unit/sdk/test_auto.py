"""``@task(checkpoint="auto")``: each await of the task function is a step, and the function is otherwise as it was."""

import asyncio
import inspect
import json
import traceback
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.history import History
from windlass import PermanentError, current_run, gather, now, sleep, step, task, to_thread


class Shop:
    """Something with methods, as an HTTP client has them."""

    def __init__(self, name: str = "shop") -> None:
        self.name = name
        self.inner = self

    async def buy(self, item: str) -> str:
        EFFECTS.append(f"buy {item}")
        return f"{self.name}: {item}"

    def later(self, item: str) -> Awaitable[str]:
        return self.buy(item)


class Cart(BaseModel):
    items: list[str] = []

    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@dataclass
class Point:
    x: int


SHOP = Shop()
EFFECTS: list[str] = []
FAIL: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    EFFECTS.clear()
    FAIL.clear()


async def fetch(n: int) -> int:
    EFFECTS.append(f"fetch {n}")
    if f"fetch {n}" in FAIL:
        raise ConnectionError(f"no {n}")
    await asyncio.sleep(0)
    return n * 10


async def move(point: Point) -> Point:
    EFFECTS.append(f"move {point.x}")
    return Point(point.x + 1)


def sync_work(n: int) -> int:
    EFFECTS.append(f"work {n}")
    return n + 1


def slow(n: int) -> Coroutine[Any, Any, Point]:
    return move(Point(n))


@step
async def decorated(n: int) -> int:
    EFFECTS.append(f"decorated {n}")
    return n


@task
async def other(n: int) -> int:
    return await decorated(n)


def twice(main: Any, payload: Any = None) -> tuple[list[str], Any]:
    """Run two attempts with one history; return the keys of the first, and check that the second does nothing again."""
    history = History()
    first = history.value(main, payload)
    did = list(EFFECTS)
    assert history.value(main, payload, number=2) == first
    assert did == EFFECTS, "the second attempt ran something again"
    return list(history.steps), first


def test_awaited_calls_are_steps_named_as_they_are_written() -> None:
    shops = [SHOP]

    @task(checkpoint="auto")
    async def main() -> list[Any]:
        return [
            await fetch(1),
            await SHOP.buy("a"),
            await SHOP.inner.buy("b"),
            await shops[0].buy("c"),
            await SHOP.later("d"),
            await partial(fetch, 2)(),
        ]

    keys, value = twice(main)
    assert keys == ["fetch", "SHOP.buy", "SHOP.inner.buy", "shops[0].buy", "SHOP.later", "partial(fetch, 2)"]
    assert value == [10, "shop: a", "shop: b", "shop: c", "shop: d", 20]


def test_calls_in_loops_conditions_and_handlers_are_counted() -> None:
    FAIL.append("fetch 2")

    @task(checkpoint="auto")
    async def main() -> list[int]:
        got = []
        for n in range(4):
            try:
                got.append(await fetch(n) if n else -1)
            except ConnectionError:
                got.append(await fetch(await fetch(7)))
        while len(got) < 5:
            got.append(await fetch(9))
        return got + [await fetch(n) for n in (await decorated(5),)]

    keys, value = twice(main)
    assert value == [-1, 10, 700, 30, 90, 50]
    assert keys == ["fetch", "fetch#2", "fetch#3", "fetch#4", "fetch#5", "fetch#6", "decorated", "fetch#7"]


def test_what_gather_and_its_kin_are_given_are_steps() -> None:
    @task(checkpoint="auto")
    async def main() -> Any:
        both = await gather(fetch(1), SHOP.buy("a"))
        many = await asyncio.gather(*(fetch(n) for n in range(2, 4)), *[fetch(n) for n in [4]], return_exceptions=True)
        one = await asyncio.wait_for(fetch(5), timeout=10)
        nested = await asyncio.wait_for(asyncio.shield(gather(fetch(6), sleep("1ms"))), 10)
        return [both, many, one, nested]

    keys, value = twice(main)
    assert value == [[10, "shop: a"], [20, 30, 40], 50, [60, None]]
    assert set(keys) == {"fetch", *(f"fetch#{n}" for n in range(2, 7)), "SHOP.buy", "sleep"}


def test_what_a_task_group_starts_are_steps() -> None:
    @task(checkpoint="auto")
    async def main() -> list[int]:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(fetch(n), name=str(n)) for n in range(3)]
        return [one.result() for one in started]

    keys, value = twice(main)
    assert (sorted(keys), value) == (["fetch", "fetch#2", "fetch#3"], [0, 10, 20])


def test_what_is_history_already_is_no_second_step() -> None:
    @task(checkpoint="auto")
    async def main() -> list[Any]:
        started = now()
        await sleep("1ms")
        child = await other.trigger(3)
        await current_run().checkpoint(3)
        threaded = await to_thread(lambda: 4)
        return [await decorated(1), await other(2), child.id, threaded, str(started)]

    keys, _ = twice(main)
    assert keys == ["now", "sleep", "other", "decorated", "decorated#2"]


def test_a_synchronous_function_in_a_thread_is_a_step_by_its_own_name() -> None:
    @task(checkpoint="auto")
    async def main() -> int:
        return await asyncio.to_thread(sync_work, n=1) + await asyncio.to_thread(SHOP.name.count, "o")

    assert twice(main) == (["sync_work", "SHOP.name.count"], 3)


def test_results_are_what_the_annotations_say() -> None:
    @task(checkpoint="auto")
    async def main() -> list[Any]:
        moved = await move(Point(1))
        later = await slow(4)
        return [moved.x, later.x]

    assert twice(main)[1] == [2, 5]


def test_functions_within_the_function_are_left_as_they_are() -> None:
    @task(checkpoint="auto")
    async def main() -> list[int]:
        async def two(n: int) -> int:
            return await fetch(n) + await fetch(n + 1)

        return [await two(1), await two(2)]

    keys, value = twice(main)
    assert (keys, value) == (["two", "two#2"], [30, 50])


def test_what_is_entered_is_entered_again_in_each_attempt() -> None:
    class Session:
        async def __aenter__(self) -> Shop:
            EFFECTS.append("open")
            return SHOP

        async def __aexit__(self, *_: object) -> None:
            EFFECTS.append("close")

    @task(checkpoint="auto")
    async def main() -> str:
        async with asyncio.timeout(5), Session() as shop:
            return await shop.buy("a")

    history = History()
    assert history.value(main) == history.value(main, number=2) == "shop: a"
    assert EFFECTS == ["open", "buy a", "close", "open", "close"]


def test_the_function_keeps_closure_defaults_annotations_and_lines() -> None:
    outer = 5

    @task(checkpoint="auto", name="named")
    async def main(point: Point, *, add: "int" = 2, name: str = outer * "x") -> int:
        """Says what it is."""
        nonlocal outer
        outer += 1
        if add > 5:
            raise PermanentError(await fetch(add))
        return await fetch(point.x + add) + len(name)

    assert (main.name, main.__doc__) == ("named", "Says what it is.")
    assert (
        str(inspect.signature(main.function))
        == "(point: tests.unit.sdk.test_auto.Point, *, add: 'int' = 2, name: str = 'xxxxx') -> int"
    )
    assert History().value(main, {"point": {"x": 1}}) == 35
    assert outer == 6
    lines, first = inspect.getsourcelines(main.function)
    with pytest.raises(PermanentError) as caught:
        asyncio.run(main.function(Point(1), add=7))
    frame = next(one for one in traceback.extract_tb(caught.tb) if one.name == "main")
    assert frame.lineno == first + next(n for n, line in enumerate(lines) if "raise" in line)


def test_outside_a_run_it_is_the_plain_function() -> None:
    @task(checkpoint="auto")
    async def main() -> list[Any]:
        return list(await gather(fetch(1), SHOP.buy("a"), asyncio.to_thread(sync_work, 1)))

    assert asyncio.run(main()) == [10, "shop: a", 2]


def test_a_failed_step_is_run_again_when_it_ended_the_attempt() -> None:
    FAIL.append("fetch 2")

    @task(checkpoint="auto")
    async def main() -> int:
        return await fetch(1) + await fetch(2)

    history = History()
    assert history.failure(main).message == "no 2"
    FAIL.clear()
    assert history.value(main, number=2) == 30
    assert EFFECTS == ["fetch 1", "fetch 2", "fetch 2"]


def test_a_call_with_other_arguments_than_history_has_is_a_divergence() -> None:
    items = ["a"]

    @task(checkpoint="auto")
    async def main() -> str:
        return await SHOP.buy(items[0])

    history = History()
    history.value(main)
    items[0] = "b"
    assert "with other arguments" in history.failure(main, number=2).message


def test_a_step_that_changes_its_own_object_is_noticed() -> None:
    @task(checkpoint="auto")
    async def main() -> int:
        cart = Cart()
        await cart.add("a")
        return await cart.add("b")

    history = History()
    assert history.value(main) == 2
    assert "'cart.add#2'" in history.failure(main, number=2).message


class Response:
    """No data."""

    def __init__(self, url: str) -> None:
        self.url = url


async def get(url: str) -> Response:
    return Response(url)


async def send(shop: Shop, item: str) -> None:
    await shop.buy(item)


async def nest(n: int) -> int:
    return await decorated(n)


@task(checkpoint="auto")
async def gets() -> None:
    await get("http://shop")


@task(checkpoint="auto")
async def sends() -> None:
    await send(SHOP, "a")


@task(checkpoint="auto")
async def nests() -> None:
    await nest(1)


@pytest.mark.parametrize(
    ("main", "said"),
    [
        (gets, "The result of step 'get' cannot be saved: the value itself is a value of type tests.unit"),
        (sends, "argument 'shop' of step 'send' cannot be saved"),
        (nests, "Step 'decorated' is called inside step 'nest'"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_names_the_call_and_the_way_out(main: Any, said: str) -> None:
    message = History().failure(main).message
    line = main.function.__code__.co_firstlineno + 2
    assert said in message
    assert f"(test_auto.py:{line}: " in message
    assert "call a function of your own with @step there" in message


def test_a_join_that_was_not_known_at_import_is_refused() -> None:
    @task(checkpoint="auto")
    async def main() -> list[int]:
        from asyncio import gather as together

        return list(await together(fetch(1)))

    message = History().failure(main).message
    assert "Import asyncio at the top of the module" in message
    assert EFFECTS == []


@task
async def explicit(n: int) -> list[int]:
    return [await step(fetch)(n), *await gather(step(fetch)(1), step(fetch)(2))]


@task(checkpoint="auto")
async def implicit(n: int) -> list[int]:
    return [await fetch(n), *await gather(fetch(1), fetch(2))]


def test_history_of_explicit_steps_of_the_same_names_fits() -> None:
    history = History()
    made = history.value(explicit, 7)
    before = {key: (one.args_hash, one.place) for key, one in history.steps.items()}
    assert history.value(implicit, 7, number=2) == made
    assert EFFECTS == ["fetch 7", "fetch 1", "fetch 2"]
    other_way = History()
    other_way.value(implicit, 7)
    assert {key: (one.args_hash, one.place) for key, one in other_way.steps.items()} == before
    assert json.dumps(made) == "[70, 10, 20]"
