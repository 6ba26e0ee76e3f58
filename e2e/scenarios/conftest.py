"""The release under test, and a namespace for each test.

Scenarios run side by side, a few at a time, each in a namespace of its own. One that restarts a part of the release or
of the node, or installs it anew, would disturb the others: it is marked ``alone``, and ``make e2e`` runs it afterwards.
"""

import fcntl
import os
from collections.abc import Callable, Iterator

import pytest

from e2e import demo
from e2e.support import SYSTEM, Space, kubectl, space

INSTALLED = "WINDLASS_E2E_INSTALLED"
"""Set to anything: the release of this checkout is installed already, as by the first half of ``make e2e``."""


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Install the release from this checkout, once for all workers."""
    if os.environ.get(INSTALLED):
        return
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _install()
        return
    done = tmp_path_factory.getbasetemp().parent / "release"  # the folder that the workers share
    with done.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not done.stat().st_size:
            _install()
            file.write("installed")


def _install() -> None:
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


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a figure, also where the test passes."""

    def show(text: str) -> None:
        with capsys.disabled():
            print(f"\n  measured: {text}", flush=True)

    return show
