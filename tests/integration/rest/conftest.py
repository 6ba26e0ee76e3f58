"""The whole API on a real ledger."""

from collections.abc import AsyncIterator

import pytest

from tests.support.rest import Rest, rest_api
from tests.support.world import SHOP, World, a_task
from windlass_operator.ledger.database import Database


@pytest.fixture
async def rest(ledger_uri: str) -> AsyncIterator[Rest]:
    """An API whose namespace shop has the Task order, which takes any payload."""
    database = Database(ledger_uri, size=12)
    await database.open()
    world = await World(database).start()
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task()
    async with rest_api(world) as served:
        yield served
    await database.close()
