"""Waiting for results: nothing that happens meanwhile is missed, and a crowd looks together."""

import asyncio
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.ledger.test_attempts import complete
from tests.support.eventually import eventually
from tests.support.world import SHOP, World
from windlass_operator.domain.errors import RunNotFoundError
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import outcomes
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.outcomes import Outcome
from windlass_operator.services import results, runs
from windlass_operator.services.results import ResultService
from windlass_operator.services.runs import Changes

_LONG = 20.0


class Waiting:
    """A world whose waits look by themselves about never: what is found, a wake-up has told."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.changes = Changes()
        self.results = ResultService(world.database, self.changes)
        self.looks: list[list[UUID]] = []
        self.during: list[Any] = []
        real = outcomes.of_runs

        async def look(database: Database, run_ids: Collection[UUID]) -> dict[UUID, Outcome]:
            self.looks.append(list(run_ids))
            found = await real(database, run_ids)
            if self.during:
                await self.during.pop()()
            return found

        monkeypatch.setattr(outcomes, "of_runs", look)
        monkeypatch.setattr(results, "_LOOK_AGAIN", 3600.0)

    async def begin(self) -> tuple[UUID, str]:
        """Return a run and the token of its attempt."""
        run_id = await self.world.submit()
        (attempt,) = await self.world.claim()
        return run_id, attempt.token

    async def end(self, run_id: UUID, token: str) -> None:
        """Let a run succeed, and tell of it."""
        await self.world.attempts.complete(token, complete("42"))
        self.changes(run_id)

    def wait(self, run_id: UUID, seconds: float = _LONG) -> "asyncio.Task[Outcome | None]":
        """Let somebody wait."""
        return asyncio.create_task(self.results.wait(SHOP, run_id, seconds, nobody_has_gone))

    async def looked(self, times: int) -> None:
        """Return after so many looks."""

        async def count() -> int:
            return len(self.looks)

        await eventually(count, lambda n: n == times)


async def nobody_has_gone() -> bool:
    return False


@pytest.fixture
async def waiting(database: Database, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(await World(database).start(), monkeypatch)


async def test_who_waits_gets_the_result_when_the_run_has_ended(waiting: Waiting) -> None:
    run_id, token = await waiting.begin()
    answer = waiting.wait(run_id)
    await waiting.looked(1)
    await waiting.end(run_id, token)
    outcome = await answer
    assert outcome is not None
    assert (outcome.state, outcome.result) == (RunState.SUCCEEDED, "42")


async def test_an_end_between_the_look_and_the_wait_is_not_missed(waiting: Waiting) -> None:
    run_id, token = await waiting.begin()
    waiting.during.append(lambda: waiting.end(run_id, token))  # the look has seen the run before its end
    outcome = await asyncio.wait_for(waiting.wait(run_id), 10)
    assert outcome is not None
    assert outcome.state is RunState.SUCCEEDED


async def test_a_crowd_that_waits_looks_together(waiting: Waiting) -> None:
    runs = [await waiting.world.submit() for _ in range(30)]
    answers = [waiting.wait(run_id, 0) for run_id in runs]
    assert set(await asyncio.gather(*answers)) == {None}
    assert [len(look) for look in waiting.looks] == [30]


async def test_a_run_that_ended_before_is_answered_with_one_look(waiting: Waiting) -> None:
    run_id, token = await waiting.begin()
    await waiting.end(run_id, token)
    outcome = await waiting.wait(run_id)
    assert outcome is not None
    assert len(waiting.looks) == 1


async def test_who_has_waited_long_enough_is_told_that_there_is_nothing(waiting: Waiting) -> None:
    run_id, _ = await waiting.begin()
    assert await waiting.wait(run_id, 0.001) is None


async def test_nobody_looks_on_for_who_has_gone(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_LOOK_AGAIN", 0.001)
    run_id, _ = await waiting.begin()

    async def gone() -> bool:
        return True

    assert await asyncio.wait_for(waiting.results.wait(SHOP, run_id, 3600, gone), 10) is None


@pytest.mark.parametrize("known", [True, False])
async def test_a_run_of_another_namespace_is_as_unknown_as_one_that_never_was(waiting: Waiting, known: bool) -> None:
    run_id = await waiting.world.submit() if known else uuid4()
    other = Project("uid-of-another", "another")
    with pytest.raises(RunNotFoundError):
        await waiting.results.wait(other, run_id, _LONG, nobody_has_gone)


async def test_a_run_that_was_accepted_just_now_is_not_looked_at_before_it_is_told_of(waiting: Waiting) -> None:
    run_id, token = await waiting.begin()
    answer = asyncio.create_task(waiting.results.wait(SHOP, run_id, _LONG, nobody_has_gone, new=True))
    await asyncio.sleep(0)
    assert waiting.looks == []
    await waiting.end(run_id, token)
    outcome = await answer
    assert outcome is not None
    assert outcome.state is RunState.SUCCEEDED
    assert len(waiting.looks) == 1


async def test_the_end_of_a_run_that_was_accepted_just_now_is_not_missed_by_a_late_wait(
    waiting: Waiting,
) -> None:
    run_id, token = await waiting.begin()
    await waiting.end(run_id, token)
    outcome = await asyncio.wait_for(waiting.results.wait(SHOP, run_id, _LONG, nobody_has_gone, new=True), 10)
    assert outcome is not None
    assert outcome.state is RunState.SUCCEEDED


def test_changes_are_remembered_for_who_comes_a_little_late_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LATEST", 2)
    changes = Changes()
    ids = [uuid4() for _ in range(3)]
    for run_id in (*ids[:2], ids[0], ids[2]):
        changes(run_id)
    with changes.follow(ids[0]) as late, changes.follow(ids[1]) as too_late:
        assert late._woken.is_set()
        assert not too_late._woken.is_set()
