"""An API to talk to, and the command line as a person calls it."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from tests.support.fake_api import FakeApi, fake_api
from windlass.cli.app import app

Windlass = Callable[..., Result]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with fake_api() as served:
        monkeypatch.setenv("WINDLASS_URL", served.url)
        monkeypatch.setenv("WINDLASS_TOKEN", "a-token")
        monkeypatch.setenv("WINDLASS_NAMESPACE", "shop")
        yield served


@pytest.fixture
def windlass() -> Windlass:
    """Run a command in this process."""

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="windlass")

    return run
