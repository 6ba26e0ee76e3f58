"""A runner that must stop takes its claim back: nothing of it may stay open, nothing of it may come late."""

import pytest

from tests.support.world import World
from windlass_operator.domain.errors import ForbiddenError, UnauthorizedError
from windlass_operator.ledger.database import Database
from windlass_operator.services.claims import PodIdentity


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def a_pod(world: World) -> PodIdentity:
    await world.pods.start_due()
    return world.identity(list(world.cluster.pods.values())[-1])


async def test_a_withdrawn_claim_hands_its_run_back_without_using_an_attempt(world: World) -> None:
    run_id = await world.submit()
    pod = await a_pod(world)
    assert await world.attempts.claim(pod, "claim-1", 1)
    await world.attempts.withdraw(pod, "claim-1")
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    assert await world.claim(claim_id="another"), "another pod goes on with it"


async def test_a_claim_that_arrives_after_its_withdrawal_takes_nothing(world: World) -> None:
    run_id = await world.submit()
    pod = await a_pod(world)
    await world.attempts.withdraw(pod, "claim-1")
    assert await world.attempts.claim(pod, "claim-1", 1) == []
    assert (await world.get(run_id))["state"] == "Queued"


async def test_withdrawing_twice_changes_nothing_more(world: World) -> None:
    await world.submit()
    pod = await a_pod(world)
    await world.attempts.claim(pod, "claim-1", 1)
    await world.attempts.withdraw(pod, "claim-1")
    await world.attempts.withdraw(pod, "claim-1")


async def test_a_pod_that_withdraws_is_replaced_at_once(world: World) -> None:
    await world.submit()
    pod = await a_pod(world)
    await world.attempts.withdraw(pod, "claim-1")
    await world.pods.start_due()
    assert len(world.cluster.pods) == 2


async def test_only_the_pod_itself_withdraws_and_only_its_own_claim(world: World) -> None:
    await world.submit()
    pod = await a_pod(world)
    await world.attempts.claim(pod, "claim-1", 1)
    with pytest.raises(UnauthorizedError):
        await world.attempts.withdraw(PodIdentity(pod.pod_uid, pod.pod_name, secret="guessed"), "claim-1")
    with pytest.raises(ForbiddenError):
        await world.attempts.withdraw(pod, "claim-2")
