"""The reference page of the SDK: it names what there is, and its example runs."""

import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import windlass
from tests.support.history import History
from windlass import testing

PAGE = (Path(__file__).parents[3] / "docs/reference/sdk.md").read_text()
ROWS = re.findall(r"^\| `([A-Za-z_]+)` \| (.+) \|$", PAGE, re.MULTILINE)
OURS = [name for name in windlass.__all__ if name != "gather"]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if not name.startswith("_") and callable(value):
            yield name, value


def test_each_public_name_has_one_entry_and_each_entry_is_a_public_name() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(windlass.__all__)


@pytest.mark.parametrize("name", OURS)
def test_a_public_name_says_what_it_is(name: str) -> None:
    value = getattr(windlass, name)
    assert value.__doc__
    if isinstance(value, type):
        assert value.__doc__ not in {base.__doc__ for base in value.__bases__}
        for member, function in members(value):
            assert inspect.getdoc(function), f"{name}.{member}"


def test_the_entries_name_fields_and_methods_that_exist() -> None:
    entries = dict(ROWS)
    run = set(re.findall(r"`([a-z_]+)`", entries["CurrentRun"]))
    fields = {name for name in inspect.signature(windlass.CurrentRun).parameters if not name.startswith("_")}
    methods = {name for name in vars(windlass.CurrentRun) if not name.startswith("_") and not name.endswith("_sync")}
    assert run == fields | methods
    for name in ("Client", "RunHandle"):
        for member, _ in members(getattr(windlass, name)):
            if not member.endswith("_sync"):
                assert f"`{member}" in entries[name], f"{name}.{member} is not in the page"
    parameters = ", ".join(list(inspect.signature(windlass.Task.trigger).parameters)[1:])
    assert f"`Task.trigger({parameters})`" in PAGE.replace("=", "")
    written = [p.replace(annotation=p.empty) for p in inspect.signature(windlass.Retry).parameters.values()]
    assert f"`Retry{inspect.Signature(written)}`".replace("'", '"') in entries["Retry"]


def test_the_testing_kit_has_one_entry_for_each_name_and_member() -> None:
    entries = dict(re.findall(r"^\| `testing\.([A-Za-z_]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert sorted(entries) == sorted(testing.__all__)
    for kind in (testing.Environment, testing.Run, testing.Effects):
        for member, _ in inspect.getmembers(kind, lambda value: callable(value) or isinstance(value, property)):
            if not member.startswith("_") and member not in {"settle", "lose", "close"}:
                assert f"`{member}" in entries[kind.__name__], f"{kind.__name__}.{member} is not in the page"
    for record in (testing.StepSeen, testing.Waiting, testing.Effect, testing.CrashReport):
        for field in inspect.signature(record).parameters:
            assert f"`{field}`" in entries[record.__name__]
    parameters = "=, ".join(list(inspect.signature(testing.crash_everywhere).parameters)[2:])
    assert f"`crash_everywhere(task, payload, {parameters}=)`" in entries["crash_everywhere"]


def test_the_example_runs() -> None:
    example = types.ModuleType("example")
    sys.modules["example"] = example
    try:
        exec(PAGE.split("```python\n")[1].split("```")[0], vars(example))  # noqa: S102 - the page's own example
        history = History()
        assert history.value(example.process_order, {"id": 7, "items": ["pen", "ink"]}) == {
            "amount": 19.8, "reserved": ["reserved pen", "reserved ink"],
        }  # fmt: skip
        assert list(history.steps) == ["reserve", "reserve#2", "charge"]
        failure = History().failure(example.process_order, {"id": 7, "items": [""]})
        assert (failure.failure_class, failure.message) == ("permanent", "an item without a name")
    finally:
        del sys.modules["example"]
