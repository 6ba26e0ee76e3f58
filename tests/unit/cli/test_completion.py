"""Completion, by shells and by kubectl: names that exist, quickly, and never a word about what went wrong."""

import os
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from tests.support.fake_api import FakeApi, a_run
from tests.unit.cli.conftest import Windlass
from windlass.cli import completion
from windlass.cli.app import app


def _complete(*words: str) -> list[str]:
    items = ShellComplete(app, {}, "windlass", "_WINDLASS_COMPLETE").get_completions([*words[:-1]], words[-1])
    return [item.value for item in items]


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl that prints how it was called, and two names; returns the file of its calls."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "kubectl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nprintf "order mail"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("WINDLASS_URL", raising=False)
    return folder / "calls"


def test_commands_options_and_states_complete() -> None:
    assert _complete("runs", "") == ["cancel", "get", "list", "logs", "resume", "tree"]
    assert _complete("runs", "list", "--state", "t") == ["TimedOut"]
    assert _complete("runs", "list", "--fin") == ["--finished-since", "--finished-before"]
    assert _complete("runs", "get", "-o", "") == ["table", "wide", "json", "yaml", "name"]
    assert _complete("completion", "") == ["bash", "zsh", "fish"]


def test_names_of_runs_and_tasks_come_from_the_api(api: FakeApi) -> None:
    api.add(a_run(1, task="order", name="order-1"))
    api.add(a_run(2, task="mail"))
    assert _complete("run", "o") == ["order"]
    assert _complete("runs", "list", "--task", "") == ["mail", "order"]
    assert _complete("runs", "get", "order") == ["order-1"]
    assert _complete("runs", "logs", "") == sorted(api.runs, reverse=True)


def test_without_an_address_kubectl_knows_the_names(kubectl: Path) -> None:
    assert _complete("run", "-n", "shop", "--context", "west", "o") == ["order"]
    assert _complete("runs", "get", "-n", "") == ["order", "mail"]
    assert _complete("runs", "get", "--context", "") == ["order", "mail"]
    calls = kubectl.read_text().splitlines()
    assert calls[0].startswith("--context west get tasks.windlass.dev -n shop --request-timeout=1s")
    assert calls[1].startswith("get namespaces --request-timeout=1s")
    assert calls[2].startswith("config get-contexts")


def test_an_api_that_hangs_or_refuses_completes_nothing_and_says_nothing(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    api.refuse["/runs"] = (500, {"code": "InternalError", "message": "no"})
    assert _complete("run", "") == []
    monkeypatch.setenv("WINDLASS_URL", "http://127.0.0.1:1")
    assert _complete("run", "") == []
    monkeypatch.setenv("WINDLASS_TOKEN", "\n")
    assert _complete("runs", "get", "") == []
    assert capfd.readouterr() == ("", "")


def test_kubectl_is_answered_in_its_own_way(api: FakeApi, capfd: pytest.CaptureFixture[str]) -> None:
    api.add(a_run(1, task="order"))
    completion.answer_kubectl(app, ["run", "or"])
    assert capfd.readouterr().out == "order\n:4\n"
    completion.answer_kubectl(app, [])
    assert capfd.readouterr().out == ":4\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(windlass: Windlass, shell: str) -> None:
    done = windlass("completion", shell)
    assert done.exit_code == 0
    assert f"_WINDLASS_COMPLETE={shell}_complete" in done.stdout
