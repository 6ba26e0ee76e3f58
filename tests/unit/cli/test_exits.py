"""Exit codes, and what stands on standard error when something is wrong."""

import json
import os
import subprocess
import sys

import click
import pytest

from tests.support.fake_api import FakeApi, a_run
from tests.unit.cli.conftest import Windlass
from windlass.cli.app import app


def test_a_run_that_is_only_started_prints_its_id_and_nothing_else(api: FakeApi, windlass: Windlass) -> None:
    done = windlass("run", "order", "--payload", '{"orderId": 7}', "--tag", "eu", "--version", "3")
    assert done.exit_code == 0
    assert done.stdout == f"{next(iter(api.runs))}\n"
    assert done.stderr == ""
    assert json.loads(api.seen[0].body) == {"payload": {"orderId": 7}, "tags": ["eu"], "version": 3}


def test_only_a_run_with_a_key_is_asked_for_again_when_its_answer_is_lost(
    api: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.cli.trigger._AGAIN", 0)
    api.cut = 1
    done = windlass("run", "order")
    assert (done.exit_code, len(api.asked("/order/runs"))) == (3, 1)
    api.cut = 2
    done = windlass("run", "order", "--idempotency-key", "order-7")
    assert (done.exit_code, len(api.asked("/order/runs"))) == (0, 4)
    assert json.loads(api.seen[-1].body)["idempotencyKey"] == "order-7"
    api.refuse["/order/runs"] = (422, {"code": "PayloadInvalid", "message": "no"})
    assert windlass("run", "order", "--idempotency-key", "order-8").exit_code == 3
    assert len(api.asked("/order/runs")) == 5


def test_a_payload_comes_from_a_file_or_from_standard_input(
    api: FakeApi, windlass: Windlass, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("payload") / "order.json"
    file.write_text('{"orderId": 8}')
    assert windlass("run", "order", "-p", f"@{file}").exit_code == 0
    assert windlass("run", "order", "-p", "-", stdin='{"orderId": 9}').exit_code == 0
    assert [json.loads(r.body)["payload"]["orderId"] for r in api.seen] == [8, 9]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("{orderId: 7}", "--payload is not JSON"),
        ("@/nowhere/order.json", "/nowhere/order.json"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("[NaN]", "NaN is not a number of JSON"),
        ('"\\ud800"', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_payload_that_is_none_is_a_usage_error_and_reaches_nobody(
    api: FakeApi, windlass: Windlass, payload: str, said: str
) -> None:
    done = windlass("run", "order", "--payload", payload)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not api.seen


def test_a_refusal_is_shown_with_field_and_hint(api: FakeApi, windlass: Windlass) -> None:
    body = {"code": "PayloadInvalid", "message": "7 is not a string", "field": "payload.orderId", "hint": "Send text."}
    api.refuse["/tasks/order/runs"] = (422, body)
    done = windlass("run", "order")
    assert done.exit_code == 3
    assert done.stderr == "PayloadInvalid: 7 is not a string\n  field: payload.orderId\n  hint:  Send text.\n"
    assert done.stdout == ""


def test_an_api_that_does_not_answer_is_code_3(api: FakeApi, windlass: Windlass) -> None:
    api.refuse["/runs"] = None
    done = windlass("runs", "list")
    assert done.exit_code == 3
    assert done.stderr.startswith("ApiUnreachable: The Windlass API at http://127.0.0.1:")


@pytest.mark.usefixtures("api")
def test_an_address_that_is_none_is_named(windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_URL", "shop.example.com:8080")
    done = windlass("runs", "list")
    assert (done.exit_code, "Write for example http://localhost:8080" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    "words", [["run"], ["runs", "list", "--state", "Sleeping"], ["runs", "get", "a", "--timeout", "soon"], ["nothing"]]
)
def test_a_command_that_is_mistyped_is_code_2(api: FakeApi, windlass: Windlass, words: list[str]) -> None:
    done = windlass(*words)
    assert done.exit_code == 2
    assert "Usage: windlass" in done.stderr
    assert not api.seen


def test_a_cancelled_run_is_named_and_one_that_had_ended_is_no_failure(api: FakeApi, windlass: Windlass) -> None:
    run = api.add(a_run(1))
    assert windlass("runs", "cancel", run["id"]).stdout == f"{run['id']} Cancelling\n"
    api.end(run["id"])
    done = windlass("runs", "cancel", run["id"])
    assert (done.exit_code, "had already ended: Succeeded" in done.stderr) == (0, True)


@pytest.mark.usefixtures("api")
def test_a_fault_of_ours_is_one_line_and_how_to_see_more(windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("id")

    monkeypatch.setattr("windlass.cli.output.show_runs", fail)
    done = windlass("runs", "list")
    assert done.exit_code == 3
    assert "WINDLASS_DEBUG=1" in done.stderr
    assert "Traceback" not in done.output


def test_a_reader_that_leaves_early_is_no_fault(api: FakeApi) -> None:
    api.add(a_run(1))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "windlass.cli", "runs", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += _commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("command", _commands(app), ids=" ".join)
def test_the_help_of_every_command_teaches_with_examples(windlass: Windlass, command: tuple[str, ...]) -> None:
    done = windlass(*command, "--help")
    assert done.exit_code == 0
    examples = done.stdout.partition("Examples:")[2]
    assert "# " in examples
    assert f"windlass {' '.join(command)}" in examples
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
