"""Random programs of steps that fail, killed at any boundary: the same path, and nothing done twice for nothing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.history import History, is_history
from windlass import ThreadPoolExecutor, gather, protocol, step, task
from windlass.errors import AttemptClosedError


class DownError(Exception):
    """What steps fail with."""


class WrappedError(Exception):
    """What the code makes of it."""


How = Literal["plain", "caught", "instead", "wrapped", "together", "collected", "threads"]


@dataclass(frozen=True)
class Call:
    """One line of a program: steps that fail so often, and what the code does about it."""

    how: How
    fails: tuple[int, ...]


class Killed(History):
    """Loses the pod at some saves: before they reach the ledger, or just after."""

    def __init__(self, kills: dict[int, bool]) -> None:
        super().__init__()
        self.kills = kills
        self.saves = 0
        self.dead = False

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        if self.dead:
            raise AttemptClosedError
        steps = [one for one in steps if one.state != "running"]
        if not steps:
            return
        kept = self.kills.get(self.saves)
        self.saves += 1
        self.dead = kept is not None
        if kept is not False:
            super().save_steps(steps)
        if self.dead:
            raise AttemptClosedError


class Program:
    """Runs attempts until one succeeds, and counts what the bodies did."""

    def __init__(self, calls: Sequence[Call], kills: dict[int, bool]) -> None:
        self.calls = calls
        self.history = Killed(kills)
        self.effects: Counter[str] = Counter()
        self.reruns: Counter[str] = Counter()
        self.path: list[Any] = []

    def body(self, name: str, fails: int) -> str:
        """A step's effect: fails until the run has been retried for it so often."""
        saved = next((one for one in self.history.steps.values() if one.name == name), None)
        assert saved is None or not is_history(saved), f"{name} runs although history has it"
        self.effects[name] += 1
        if self.reruns[name] < fails:
            raise DownError(name)
        return name

    def attempts(self, main: Any) -> list[Any]:
        for number in range(1, 60):
            self.path, self.history.dead = [], False
            try:
                finished = self.history.run(main, number=number)
            except AttemptClosedError:
                continue
            if finished.complete is not None:
                return self.path
            assert finished.fail is not None
            assert finished.fail.rerun, finished.fail.failure  # else the next attempt could not end otherwise
            self.reruns.update(key.rpartition("/")[2] for key in finished.fail.rerun)
        raise AssertionError("the run does not come to an end")


Stepping = Callable[[Program, str, int], Awaitable[str]]


async def by_async(program: Program, name: str, fails: int) -> str:
    @step(name=name)
    async def work() -> str:
        await asyncio.sleep(0)
        return program.body(name, fails)

    return await work()


def by_sync(program: Program, name: str, fails: int) -> str:
    return step(name=name)(lambda: program.body(name, fails))()


async def alone(at: int, call: Call, one: Callable[[str, int], Awaitable[str]]) -> Any:
    """A step, and what follows if it fails."""
    name, fails = f"s{at}", call.fails[0]
    try:
        return await one(name, fails)
    except DownError as error:
        if call.how == "plain":
            raise
        if call.how == "wrapped":
            raise WrappedError from error
        if call.how == "instead":  # raises while the first error is being handled
            return ["instead", await one(f"{name}b", call.fails[-1])]
        return ["caught", str(error)]


async def together(program: Program, at: int, call: Call) -> Any:
    names = [(f"s{at}.{n}", fails) for n, fails in enumerate(call.fails)]
    if call.how == "threads":
        with ThreadPoolExecutor(2) as pool:
            made = [pool.submit(by_sync, program, name, fails) for name, fails in names]
        return [one.result() for one in made]
    found = await gather(
        *(by_async(program, name, fails) for name, fails in names), return_exceptions=call.how == "collected"
    )
    for one in found:
        if isinstance(one, asyncio.CancelledError | AttemptClosedError):
            raise one
    return [one if isinstance(one, str) else ["failed", str(one)] for one in found]


def expected(at: int, call: Call) -> Any:
    """What a call comes to, whatever is lost on the way: errors that the code let through are retried."""
    if call.how in ("together", "threads"):
        return [f"s{at}.{n}" for n in range(len(call.fails))]
    if call.how == "collected":
        return [["failed", f"s{at}.{n}"] if fails else f"s{at}.{n}" for n, fails in enumerate(call.fails)]
    if call.how in ("caught", "instead") and call.fails[0]:
        return ["instead", f"s{at}b"] if call.how == "instead" else ["caught", f"s{at}"]
    return f"s{at}"


def run(calls: Sequence[Call], kills: dict[int, bool], *, in_loop: bool) -> Program:
    program = Program(calls, kills)

    async def main() -> None:
        async def one(name: str, fails: int) -> str:
            return await by_async(program, name, fails) if in_loop else by_sync(program, name, fails)

        for at, call in enumerate(calls):
            many = call.how in ("together", "collected", "threads")
            program.path.append(await (together(program, at, call) if many else alone(at, call, one)))

    program.attempts(task(main))
    return program


CALLS = st.lists(
    st.builds(
        Call,
        st.sampled_from(["plain", "caught", "instead", "wrapped", "together", "collected", "threads"]),
        st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=4,
)
KILLS = st.dictionaries(st.integers(0, 12), st.booleans(), max_size=4)


@settings(max_examples=120, deadline=None)
@given(CALLS, KILLS, st.booleans())
@example([Call("instead", (1, 1)), Call("plain", (0,))], {2: True}, True)
@example([Call("together", (1, 1, 1))], {2: True}, True)
@example([Call("caught", (1,)), Call("plain", (1,))], {0: False, 2: True}, False)
def test_kills_change_neither_the_path_nor_what_is_done_once(
    calls: list[Call], kills: dict[int, bool], in_loop: bool
) -> None:
    calm = run(calls, {}, in_loop=in_loop)
    killed = run(calls, kills, in_loop=in_loop)
    assert killed.path == calm.path == [expected(at, call) for at, call in enumerate(calls)]
    lost = sum(1 for at in kills if at < killed.history.saves)
    for name, often in killed.effects.items():
        # Once for each time the run was retried for it, and again where a pod went before the save was known.
        assert often <= 1 + killed.reruns[name] + lost
        if not lost:
            assert often == calm.effects[name]
