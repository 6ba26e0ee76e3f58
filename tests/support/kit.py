"""The testing kit's own fixtures, on the PostgreSQL of our tests."""

import os
from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer
from windlass.testing.plane import Plane
from windlass.testing.plugin import windlass_env

__all__ = ["windlass_env", "windlass_plane"]


@pytest.fixture(scope="session")
def windlass_plane(postgres: PostgresServer) -> Iterator[Plane]:
    os.environ["WINDLASS_TEST_POSTGRES_URI"] = postgres.uri()
    plane = Plane()
    del os.environ["WINDLASS_TEST_POSTGRES_URI"]
    yield plane
    plane.close()
