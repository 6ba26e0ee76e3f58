"""Loading the user's code, and what is told of code that cannot be loaded."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.history import History
from windlass import protocol
from windlass.errors import LoadError
from windlass.execution import load_task, preload


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("of_the_user"):
            del sys.modules[name]


def refused(entrypoint: str, source: str | None) -> protocol.Failure:
    with pytest.raises(LoadError) as caught:
        load_task(entrypoint, source)
    assert caught.value.failure.failure_class == "permanent"
    return caught.value.failure


def test_inline_source_runs_with_what_python_promises_a_module() -> None:
    source = """
from __future__ import annotations
from dataclasses import dataclass
from pydantic import BaseModel
from windlass import task

@dataclass
class Point:
    x: int

class Order(BaseModel):
    at: Point

@task
def main(order: Order) -> Point:
    return order.at
"""
    assert History().value(load_task("of_the_user:main", source), {"at": {"x": 3}}) == {"x": 3}


def test_a_plain_function_is_a_task_without_options() -> None:
    assert load_task("of_the_user:main", "def main(n): return n").function(3) == 3


@pytest.mark.parametrize(
    ("source", "reason", "said"),
    [
        ("def main(:\n", "SourceSyntaxError", "of_the_user.py:1: invalid syntax"),
        ("x = 1\n  y = 2\n", "SourceSyntaxError", "of_the_user.py:2: unexpected indent"),
        ("x = 1\0", "SourceSyntaxError", "source code string cannot contain null bytes"),
        ("(" * 100_000, "SourceSyntaxError", "too many nested parentheses"),
        ("-" * 200_000 + "1", "SourceSyntaxError", ""),
        ("\n\n1 / 0\n", "EntrypointImportFailed", "of_the_user.py:3: Module 'of_the_user' does not import: ZeroDiv"),
        ("import nothing_there", "EntrypointImportFailed", "ModuleNotFoundError: No module named 'nothing_there'"),
        ("import sys; sys.exit(3)", "EntrypointImportFailed", "SystemExit: 3"),
        ("def other(): ...", "EntrypointImportFailed", "'main' does not exist in module 'of_the_user'; the entrypoint"),
        ("main = 3", "EntrypointImportFailed", "'main' is not a function in module"),
    ],
)  # fmt: skip
def test_source_that_does_not_load_says_why_and_where(source: str, reason: str, said: str) -> None:
    failure = refused("of_the_user:main", source)
    assert failure.reason == reason
    assert said in failure.message


def test_a_module_that_a_module_imports_is_named_by_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_user_a.py").write_text("import of_the_user_importlib\n")
    (tmp_path / "of_the_user_importlib.py").write_text("\nraise ValueError('no table')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadError) as caught:
        preload("of_the_user_a")
    where = tmp_path / "of_the_user_importlib.py"
    assert caught.value.failure.message == (
        f"{where}:2: Module 'of_the_user_a' does not import: ValueError: no table"
    )  # fmt: skip


def test_a_module_that_is_not_there_is_named() -> None:
    failure = refused("of_the_user_nowhere:main", None)
    assert failure.message.endswith("ModuleNotFoundError: No module named 'of_the_user_nowhere'")
