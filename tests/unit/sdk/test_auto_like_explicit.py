"""A function with ``checkpoint="auto"`` behaves as the same function with explicit steps, wherever its pod dies."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import is_history
from tests.unit.sdk.test_kill_points import Killed
from windlass.errors import AttemptClosedError
from windlass.execution import load_task

HEAD = """
import asyncio
from windlass import gather, step, task
effects, fails = [], {}
async def f(n):
    await asyncio.sleep(0)
    effects.append(f"f{n}")
    if effects.count(f"f{n}") <= fails.get(n, 0):
        raise ConnectionError(n)
    return n
async def g(n, by=2):
    effects.append(f"g{n}")
    return n * by
"""

SHAPES = {
    "plain": "got.append(await f(N))",
    "nested": "got.append(await g(await f(N), by=await g(N)))",
    "loop": "for n in range(N, N + 3):\n    got.append(await g(n))\n    got += [await f(n) for _ in 'ab']",
    "caught": "try:\n    got.append(await f(N))\nexcept OSError as error:\n    got.append(await g(error.args[0]))",
    "gathered": "got += await gather(f(N), g(N), *(g(n) for n in range(3)))",
    "collected": "got += map(str, await asyncio.gather(f(N), f(N + 1), return_exceptions=True))",
    "grouped": "async with asyncio.TaskGroup() as group:\n    made = [group.create_task(g(n)) for n in range(3)]\n"
    "got += [one.result() for one in made]",
    "limited": "got.append(await asyncio.wait_for(g(N), 60))",
    "chosen": "got.append(await g(N) if len(got) % 2 else await f(N))",
}
TOGETHER = ("gathered", "collected", "grouped")
"""What is saved in which order is not always the same."""


@dataclass(frozen=True)
class Program:
    shapes: list[str]
    fails: dict[int, int]
    kills: dict[int, bool]

    def text(self, way: Literal["auto", "explicit"]) -> str:
        lines = [
            line for n, shape in enumerate(self.shapes) for line in SHAPES[shape].replace("N", f"{n}0").split("\n")
        ]
        body = "".join(f"    {line}\n" for line in ["got = []", *lines, "return got"])
        decorated = '@task(checkpoint="auto")' if way == "auto" else "f, g = step(f), step(g)\n@task"
        return f"{HEAD}{decorated}\nasync def main():\n{body}"

    def outcome(self, way: Literal["auto", "explicit"]) -> tuple[Any, dict[str, Any], Counter[str]]:
        """Return the run's result, its history, and how often each body has run."""
        task = load_task("of_the_user:main", self.text(way))
        task.function.__globals__["fails"].update(self.fails)
        history = Killed(self.kills)
        for number in range(1, 60):
            history.dead = False
            try:
                finished = history.run(task, number=number)
            except AttemptClosedError:
                continue
            if finished.complete is not None:
                kept = {key: (one.name, one.args_hash, one.place, one.state) for key, one in history.steps.items()}
                assert all(is_history(one) for one in history.steps.values())
                return (
                    json.loads(bytes(finished.complete.result)), kept, Counter(task.function.__globals__["effects"])
                )  # fmt: skip
            assert finished.fail is not None
            assert finished.fail.failure.type in ("ConnectionError", "ExceptionGroup"), finished.fail.failure.message
        raise AssertionError("the run does not come to an end")


programs = st.builds(
    Program,
    st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=5),
    st.dictionaries(st.sampled_from([0, 10, 20, 30]), st.integers(1, 2), max_size=2),
    st.dictionaries(st.integers(0, 12), st.booleans(), max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(programs)
def test_both_ways_lead_to_the_same_history(program: Program) -> None:
    together = bool(set(program.shapes) & set(TOGETHER))
    if together and program.kills:
        program = replace(program, fails={})  # whether a failure was saved before the end decides what comes of it
    auto, explicit = program.outcome("auto"), program.outcome("explicit")
    assert auto[1] == explicit[1]
    assert auto[0] == explicit[0]
    if not together:
        assert auto[2] == explicit[2]
