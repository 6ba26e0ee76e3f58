"""PostgreSQL has committed, and the word of it is lost: every write is repeated, and has exactly one effect."""

import pytest

from tests.faults import operations
from tests.support.eventually import eventually
from tests.support.faulty_link import PostgresLink
from tests.support.footprint import change, footprint
from tests.support.world import World

MOST = 40
"""Transactions of one operation; none of ours has so many."""


async def effect_of(world: World, prepare: operations.Prepare, word: str, link: PostgresLink, lose: int) -> object:
    """Return what an operation leaves in the ledger when the word of one of its commits is lost; 0 loses none."""
    await world.database.fetch("DELETE FROM queue_entry")  # what earlier rounds left is nobody's business any more
    act = await prepare(world, word)
    before = await footprint(world.database)
    if lose:
        link.lose_commit(lose)
    await act()
    link.lose_commit(0)

    async def left() -> object:
        return change(before, await footprint(world.database))

    if prepare in (
        operations.steps,
        operations.steps_of_a_crowd,
        operations.protected_step,
    ):  # their progress is noted behind their back
        await eventually(lambda: _noted(world))
    return await left()


async def _noted(world: World) -> bool:
    return not world.steps._noted


@pytest.mark.parametrize("prepare", operations.ALL, ids=lambda prepare: prepare.__name__)
async def test_a_write_whose_commit_was_not_heard_of_has_one_effect(
    world: World, link: PostgresLink, prepare: operations.Prepare
) -> None:
    usual = await effect_of(world, prepare, "w0", link, 0)
    lost = 0
    for number in range(1, MOST):
        assert await effect_of(world, prepare, f"w{number}", link, number) == usual, f"transaction {number}"
        if link.lost_words == lost:
            break  # it has no more transactions than this
        lost = link.lost_words
    assert 0 < lost < MOST - 1
