"""Places: changed code is noticed, and code that only runs at another speed is not."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import History
from windlass import current_run, gather, step, task
from windlass.branches import Branch
from windlass.code_ids import code_id
from windlass.protocol import Failure


@pytest.fixture
def history() -> History:
    return History()


@step
def note(value: Any) -> Any:
    return value


@step
def other(value: Any) -> Any:
    return value


@step
async def fetch(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def same(value: str) -> str:
    return value


def sequence(*names: str) -> Any:
    """Return a task that calls steps of these names, one after the other."""

    @task
    def main() -> list[str]:
        return [step(name=name)(same)(name) for name in names]

    return main


def diverged(history: History, function: Any, **options: Any) -> Failure:
    failure = history.failure(function, **options)
    assert (failure.reason, failure.failure_class) == ("Divergence", "permanent"), failure
    return failure


def test_each_key_has_its_place_in_its_branch() -> None:
    root = Branch()
    taken = [(root.key(name), root.place) for name in ("a", "b", "a")]
    child = root.child()
    assert [*taken, (child.key("a"), child.place)] == [("a", 1), ("b", 2), ("a#2", 3), ("0/a", 1)]


def test_steps_carry_their_place_and_the_id_of_their_code(history: History) -> None:
    history.value(sequence("a", "b"), code="x = 1")
    code = code_id("m:f", "x = 1")
    assert {key: (one.place, one.code_id) for key, one in history.steps.items()} == {"a": (1, code), "b": (2, code)}


@pytest.mark.parametrize(
    ("then", "now", "history_has", "code_asks"),
    [
        (["a", "b", "c"], ["a", "c"], "'b'", "'c'"),
        (["a", "b"], ["a", "new", "b"], "'b'", "'new'"),
        (["a", "b"], ["b", "a"], "'a'", "'b'"),
    ],
    ids=["removed", "inserted", "moved"],
)
@pytest.mark.parametrize("paged", [False, True])
def test_a_changed_order_diverges_and_names_both_steps_and_both_codes(
    history: History, then: list[str], now: list[str], history_has: str, code_asks: str, *, paged: bool
) -> None:
    history.value(sequence(*then), code="old")
    failure = diverged(history, sequence(*now), number=2, code="new", paged=paged)
    old, new = code_id("m:f", "old"), code_id("m:f", "new")
    assert f"history has step {history_has}, saved by code {old}." in failure.message
    assert f"the code that runs now (code {new}) asks for step {code_asks}." in failure.message
    for way_out in ("migrate=", "windlass runs resume r", "windlass runs cancel r"):
        assert way_out in failure.message


def test_a_divergence_of_unchanged_code_says_what_is_wrong_with_it(history: History) -> None:
    @task
    def main() -> Any:
        return note(1) if current_run().attempt == 1 else other(1)

    history.value(main, code="same")
    assert "It is the same code" in diverged(history, main, number=2, code="same").message


def test_a_divergence_that_the_code_catches_still_ends_the_attempt(history: History) -> None:
    history.value(sequence("a", "b"))
    ran: list[str] = []

    @step
    def new() -> None:
        ran.append("new")

    @task
    def main() -> str:
        for _ in range(2):
            try:
                new()
            except Exception as error:
                ran.append(type(error).__name__)
        return "fine"

    diverged(history, main, number=2)
    assert ran == ["DivergenceError", "DivergenceError"]


def test_a_step_that_was_never_finished_leaves_its_place_open(history: History) -> None:
    """Two steps are called before either is awaited; the first is cut off, and is replaced in the code."""

    def parallel(first: Any) -> Any:
        @task
        async def main() -> Any:
            return await gather(first(1), fetch(2))

        return main

    @step
    async def broken(value: int) -> int:
        await asyncio.sleep(0.01)
        raise ValueError(value)

    assert history.failure(parallel(broken)).type == "ValueError"
    assert history.steps["fetch"].place == 2

    @step
    async def mended(value: int) -> int:
        return value

    assert history.value(parallel(mended), number=2) == [1, 2]


def test_code_that_handled_an_interruption_may_go_another_way_when_the_step_works(history: History) -> None:
    """Attempt 1: pay is interrupted, the code falls back and notes it. Attempt 2: pay works: there is no fallback."""

    @step
    def pay() -> str:
        if current_run().attempt == 1:
            raise SystemExit("away")
        return "paid"

    @task
    def main() -> list[Any]:
        try:
            how = pay()
        except SystemExit:
            how = other("by invoice")
        said = note(1)
        if current_run().attempt == 1:
            raise ValueError("the pod dies")
        return [how, said]

    assert history.failure(main).type == "ValueError"
    assert history.value(main, number=2) == ["paid", 1]


def test_steps_without_a_place_are_not_held_to_one(history: History) -> None:
    history.value(sequence("a", "b"))
    for one in history.steps.values():
        one.place = one.code_id = None
    assert history.value(sequence("b", "a"), number=2) == ["b", "a"]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.lists(st.sampled_from("xyz"), min_size=1, max_size=4), min_size=1, max_size=4),
    one=st.randoms(use_true_random=False),
    two=st.randoms(use_true_random=False),
    killed_after=st.integers(0, 16),
)
def test_no_schedule_and_no_kill_point_makes_unchanged_code_diverge(
    shape: list[list[str]], one: Any, two: Any, killed_after: int
) -> None:
    """Branches of steps in any interleaving, cut off anywhere: the next attempt gets each saved result at its place."""

    class Killed(BaseException):
        pass

    def attempt_of(random: Any, most: int | None) -> tuple[Any, list[str]]:
        ran: list[str] = []

        @task
        async def main() -> Any:
            async def branch(number: int, names: list[str]) -> list[str]:
                got = []
                for at, name in enumerate(names):
                    for _ in range(random.randrange(4)):
                        await asyncio.sleep(0)

                    async def body(value: str) -> str:
                        if most is not None and len(ran) >= most:
                            raise Killed
                        ran.append(value)
                        return value

                    got.append(await step(name=name)(body)(f"{number}.{at}.{name}"))
                return got

            return await gather(*(branch(number, names) for number, names in enumerate(shape)))

        return main, ran

    history = History()
    first, _ = attempt_of(one, killed_after)
    history.run(first, code="same")
    saved = {key for key, found in history.steps.items() if found.state == "succeeded"}
    second, ran_second = attempt_of(two, None)
    assert history.value(second, number=2, code="same") == [
        [f"{number}.{at}.{name}" for at, name in enumerate(names)] for number, names in enumerate(shape)
    ]
    assert len(ran_second) == sum(map(len, shape)) - len(saved)
    for number, names in enumerate(shape):
        for at in range(len(names)):
            assert any(s.place == at + 1 for key, s in history.steps.items() if key.startswith(f"{number}/"))
