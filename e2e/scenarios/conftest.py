"""The release under test, and a namespace for each test."""

from collections.abc import Iterator

import pytest

from e2e import demo
from e2e.support import SYSTEM, Space, kubectl, space


@pytest.fixture(scope="session")
def release() -> None:
    """Install the release from this checkout."""
    demo.install()
    selector = "app.kubernetes.io/component in (operator,api)"
    before = kubectl("get", "pods", "-n", SYSTEM, "-l", selector, "-o", "name").split()
    for name in ("windlass-operator", "windlass-api"):  # the images' tag does not change when their content does
        kubectl("rollout", "restart", f"deploy/{name}", "-n", SYSTEM)
    for name in ("windlass-operator", "windlass-api"):
        kubectl("rollout", "status", f"deploy/{name}", "-n", SYSTEM, "--timeout=120s")
    # Who is being replaced still serves for a moment, and takes what it counted with it.
    kubectl("wait", "--for=delete", *before, "-n", SYSTEM, "--timeout=60s")


@pytest.fixture
def ns() -> Iterator[Space]:
    """Make a namespace."""
    with space() as made:
        yield made
