"""Leadership: won, kept, lost, given back."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.support.lease import LeaseServer
from windlass_operator.kube.election import LeadershipLostError, Times, lead

TIMES: Final = Times(lease=0.3, renew_deadline=0.15, retry=0.02)
"""Short ones. A candidate's patience is time that passes, so these tests wait for events and bound the wait."""

PATIENCE: Final = 5.0


class Leader:
    """A candidate, with what its work has seen."""

    def __init__(self, server: LeaseServer, identity: str) -> None:
        self.started, self.finish, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.holder_at_end: str | None = None
        self._server = server
        self.task = asyncio.create_task(
            lead(server, namespace="n", name="leader", identity=identity, on_started=self._work, times=TIMES)
        )

    async def _work(self, guard: Callable[[], None]) -> None:
        self.guard = guard
        self.started.set()
        try:
            await self.finish.wait()
        finally:
            self.holder_at_end = self._server.holder
            self.ended.set()

    async def until_started(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.started.wait()

    async def outcome(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return (await asyncio.gather(self.task, return_exceptions=True))[0]


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


async def test_the_first_candidate_creates_the_lease_and_leads(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    assert server.lease is not None
    assert server.holder == "one"
    assert server.lease["spec"]["leaseDurationSeconds"] == 1
    assert server.lease["spec"]["renewTime"].endswith("Z")
    one.finish.set()
    assert await one.outcome() is None


async def test_a_leader_renews_for_longer_than_its_lease_and_nobody_else_starts(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    two = Leader(server, "two")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(TIMES.lease * 2):
            await two.started.wait()
    assert server.holder == "one"
    assert not one.task.done()
    for leader in (one, two):
        leader.task.cancel()
        await leader.outcome()


async def test_a_clean_stop_gives_the_lease_back_after_the_work_has_ended(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    one.task.cancel()
    assert isinstance(await one.outcome(), asyncio.CancelledError)
    assert one.holder_at_end == "one", "still ours while the work ended"
    assert server.holder is None


async def test_a_successor_takes_a_released_lease_at_once(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    two = Leader(server, "two")
    one.finish.set()
    await one.outcome()
    before = asyncio.get_running_loop().time()
    await two.until_started()
    assert asyncio.get_running_loop().time() - before < TIMES.lease
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1
    two.finish.set()
    await two.outcome()


async def test_a_lease_that_nobody_renews_is_taken_over(server: LeaseServer) -> None:
    server.give_to("dead")
    one = Leader(server, "one")
    assert not one.started.is_set()
    await one.until_started()
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 5
    one.finish.set()
    await one.outcome()


async def test_a_lease_that_cannot_be_renewed_ends_the_work_before_a_successor_may_start(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    server.down = True
    outcome = await one.outcome()
    assert isinstance(outcome, LeadershipLostError)
    assert "no renewal" in outcome.message
    assert one.ended.is_set()


async def test_a_leader_that_stood_still_for_too_long_may_write_nothing_even_before_it_has_looked(
    server: LeaseServer,
) -> None:
    one = Leader(server, "one")
    await one.until_started()
    one.guard()
    time.sleep(TIMES.renew_deadline)  # noqa: ASYNC251 - nothing of this process runs meanwhile: that is what is tested
    with pytest.raises(LeadershipLostError, match="another may lead"):
        one.guard()
    assert isinstance(await one.outcome(), LeadershipLostError)


async def test_an_outage_shorter_than_the_deadline_is_ridden_out(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    server.down = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(TIMES.renew_deadline / 3):
            await one.ended.wait()
    server.down = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(TIMES.renew_deadline * 2):
            await one.ended.wait()
    one.finish.set()
    assert await one.outcome() is None


async def test_a_lease_that_another_took_ends_the_work_at_once_and_stays_the_others(server: LeaseServer) -> None:
    one = Leader(server, "one")
    await one.until_started()
    server.give_to("usurper")
    outcome = await one.outcome()
    assert isinstance(outcome, LeadershipLostError)
    assert "usurper holds it" in outcome.message
    assert server.holder == "usurper"


async def test_of_two_writers_at_the_same_moment_one_wins(server: LeaseServer) -> None:
    server.before_write = lambda: server.give_to("faster")
    one = Leader(server, "one")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(TIMES.lease / 2):
            await one.started.wait()
    assert server.holder == "faster"
    one.task.cancel()
    await one.outcome()
    assert server.holder == "faster"


async def test_what_the_work_raises_is_raised_and_the_lease_given_back(server: LeaseServer) -> None:
    async def fail(_: Callable[[], None]) -> None:
        raise ValueError("no ledger")

    with pytest.raises(ValueError, match="no ledger"):
        await lead(server, namespace="n", name="leader", identity="one", on_started=fail, times=TIMES)
    assert server.holder is None


async def test_work_that_ignores_its_cancellation_does_not_keep_the_process(server: LeaseServer) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Callable[[], None]) -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(
        lead(server, namespace="n", name="leader", identity="one", on_started=stubborn, times=TIMES)
    )
    async with asyncio.timeout(PATIENCE):
        await started.wait()
        server.down = True
        with pytest.raises(LeadershipLostError):
            await task
    release.set()


async def test_a_candidate_that_is_stopped_while_it_waits_leaves_the_lease_alone(server: LeaseServer) -> None:
    server.give_to("leader")
    one = Leader(server, "one")
    await asyncio.sleep(0)
    one.task.cancel()
    await one.outcome()
    assert server.holder == "leader"
