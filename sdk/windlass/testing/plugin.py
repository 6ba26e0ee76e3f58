"""The pytest plugin: the fixture ``windlass_env``. It costs nothing where nobody asks for it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from windlass.testing import Environment
    from windlass.testing.plane import Plane


@pytest.fixture(scope="session")
def windlass_plane() -> "Iterator[Plane]":
    """The control plane of all tests of this session; started by the first one that wants it."""
    from windlass.testing.plane import Plane

    plane = Plane()
    yield plane
    plane.close()


@pytest.fixture
def windlass_env(windlass_plane: "Plane", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Environment]":
    """An empty world for one test: see :class:`windlass.testing.Environment`."""
    from windlass.testing import Environment

    environment = Environment(windlass_plane, tmp_path_factory.mktemp("windlass"))
    Environment.current = environment
    yield environment
    Environment.current = None
    environment.close()
