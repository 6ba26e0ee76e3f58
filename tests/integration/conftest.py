"""A control plane on a real ledger, and the runners' API in front of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api_server import serving
from tests.support.container_pod import build_shim
from tests.support.kit import windlass_env, windlass_plane
from tests.support.world import World
from windlass_operator.ledger.database import Database

__all__ = ["windlass_env", "windlass_plane"]


@pytest.fixture
async def world(ledger_uri: str) -> AsyncIterator[World]:
    database = Database(ledger_uri, size=12)
    await database.open()
    yield await World(database).start()
    await database.close()


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with serving(world) as address:
        yield address


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim") / "windlass-shim")
