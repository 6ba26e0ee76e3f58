"""The patches of ``make mutants`` fit the code of today, and name tests that exist."""

import subprocess
from pathlib import Path

import pytest

from tests.mutants.__main__ import Mutant, MutantError, caught, known

_ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("mutant", known(), ids=lambda mutant: mutant.name)
def test_no_mutant_has_expired(mutant: Mutant) -> None:
    command = ["git", "apply", "--check", str(mutant.patch)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{mutant.patch.name} has expired; make it anew from the code of today: {done.stderr}"
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (_ROOT / path).read_text(), test


def test_a_quick_mutant_is_caught(tmp_path: Path) -> None:
    """One of them from end to end: a tree in which only the failing test is left."""
    _tree(tmp_path, "def test_it():\n    import code_of_it\n    assert code_of_it.answer == 42\n")
    assert caught(_mutant(tmp_path, "answer = 42", "answer = 41"), tmp_path) == []
    assert "42" in (tmp_path / "code_of_it.py").read_text(), "the tree is as it was"


def test_a_mutant_that_no_test_sees_survives(tmp_path: Path) -> None:
    _tree(tmp_path, "def test_it():\n    pass\n")
    assert caught(_mutant(tmp_path, "answer = 42", "answer = 41"), tmp_path) == ["test_it.py"]


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "def test_it():\n    pass\n")
    with pytest.raises(MutantError, match=r"bug\.patch has expired"):
        caught(_mutant(tmp_path, "answer = 43", "answer = 41"), tmp_path)


def test_a_test_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    _tree(tmp_path, "")
    with pytest.raises(MutantError, match="was not run"):
        caught(_mutant(tmp_path, "answer = 42", "answer = 41"), tmp_path)


def _tree(place: Path, test: str) -> None:
    (place / "code_of_it.py").write_text("answer = 42\n")
    (place / "test_it.py").write_text(test)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=place, check=True, capture_output=True)


def _mutant(place: Path, old: str, new: str) -> Mutant:
    patch = place / "bug.patch"
    change = f"--- a/code_of_it.py\n+++ b/code_of_it.py\n@@ -1 +1 @@\n-{old}\n+{new}\n"
    patch.write_text(
        f"Mutant: the answer.\nCaught by: test_it.py\n\ndiff --git a/code_of_it.py b/code_of_it.py\n{change}"
    )
    return Mutant.read(patch)
