"""``windlass dev`` on the command line's side: what it needs, and how other commands find it."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_api import FakeApi
from tests.unit.cli.conftest import Windlass
from windlass.cli import dev


@pytest.fixture
def folder(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder below one in which a ``windlass dev`` has left its note, and no variable of ours."""
    for name in ("URL", "TOKEN", "NAMESPACE"):
        monkeypatch.delenv(f"WINDLASS_{name}")
    state = tmp_path / ".windlass"
    state.mkdir()
    (state / "dev.json").write_text(json.dumps({"url": api.url, "pid": 1}))
    (state / "lock").touch()
    below = tmp_path / "src"
    below.mkdir()
    monkeypatch.chdir(below)
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[None]:
    """It runs: it holds its lock."""
    with (folder / ".windlass" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("running")
def test_a_command_talks_to_what_runs_in_its_folder_or_above(api: FakeApi, windlass: Windlass) -> None:
    assert windlass("runs", "list").exit_code == 0
    assert (api.seen[0].path, api.seen[0].token) == ("/api/v1/namespaces/default/runs", "local")


@pytest.mark.usefixtures("running")
def test_an_address_in_the_environment_wins(api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WINDLASS_TOKEN", "x")
    assert windlass("runs", "list").exit_code == 3
    assert not api.seen


@pytest.mark.usefixtures("folder")
def test_the_note_of_one_that_was_killed_is_not_believed(
    api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    result = windlass("runs", "list")
    assert result.exit_code == 3
    assert "WINDLASS_URL" in result.output
    assert not api.seen


def test_where_the_extra_is_not_installed_it_says_how(windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "find_spec", lambda _: None)
    result = windlass("dev")
    assert result.exit_code == 2
    assert "pip install 'windlass[dev]'" in result.output
