"""``make mutants``: puts each known bug into a copy of the tree and demands that the tests named for it fail.

A test that cannot fail proves nothing. A mutant that survives asks for a test; one whose patch does not apply any more
has expired, and asks for another patch.

    python -m tests.mutants [NAME ...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parent.parent
_SOURCES: Final = ("sdk", "operator", "runner-image", ".")
_HEADER: Final = "Caught by: "
_FAILED: Final = 1
"""Exit code of pytest where tests have failed; any other that is not 0 means that they were not run."""


class MutantError(Exception):
    """Nothing can be said about a mutant."""


@dataclass(frozen=True)
class Mutant:
    """A known bug.

    Attributes:
        name: Of its patch.
        bug: What it does.
        tests: Each of these must fail.
    """

    name: str
    patch: Path
    bug: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, patch: Path) -> "Mutant":
        """Return the mutant of a patch."""
        lines = patch.read_text().partition("\ndiff ")[0].splitlines()
        tests = tuple(line.removeprefix(_HEADER) for line in lines if line.startswith(_HEADER))
        bug = lines[0].removeprefix("Mutant: ")
        if not tests or bug == lines[0]:
            raise MutantError(f"{patch.name} must begin with `Mutant: ` and have `{_HEADER}` for each of its tests.")
        return cls(patch.stem, patch, bug, tests)


def known() -> list[Mutant]:
    """Return all mutants, by name."""
    return [Mutant.read(patch) for patch in sorted(_HERE.glob("*.patch"))]


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """Yield a worktree with what is tracked here, changes that are not committed included."""
    with tempfile.TemporaryDirectory(prefix="windlass-mutants-") as folder:
        place = Path(folder) / "tree"
        _git(_ROOT, "worktree", "add", "--quiet", "--detach", str(place), "HEAD")
        try:
            changes = _git(_ROOT, "diff", "--binary", "HEAD")
            if changes.strip():
                _git(place, "apply", "-", text=changes)
            _git(place, "add", "--all")
            yield place
        finally:
            _git(_ROOT, "worktree", "remove", "--force", str(place))


def caught(mutant: Mutant, place: Path) -> list[str]:
    """Return those of a mutant's tests that did not notice it.

    Raises:
        MutantError: Its patch has expired, or a test was not run.
    """
    try:
        _git(place, "apply", str(mutant.patch))
    except subprocess.CalledProcessError as error:
        raise MutantError(f"{mutant.patch.name} has expired: it does not apply. {error.stderr.strip()}") from None
    try:
        return [test for test in mutant.tests if not _fails(test, place)]
    finally:
        _git(place, "checkout", "--quiet", ".")


def _fails(test: str, place: Path) -> bool:
    done = _pytest([test], place)
    if done.returncode not in (0, _FAILED):
        raise MutantError(f"{test} was not run: {(done.stdout + done.stderr).strip()[-500:]}")
    return done.returncode == _FAILED


def _pytest(tests: list[str], place: Path) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(str(place / source) for source in _SOURCES)
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--hypothesis-seed=0", *tests]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)


def _git(place: Path, *arguments: str, text: str | None = None) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=place, input=text, capture_output=True, text=True, check=True).stdout


def main(names: list[str]) -> int:
    """Try these mutants, or all. Returns the exit code: 1 if one survives or nothing can be said of it."""
    mutants = [mutant for mutant in known() if not names or mutant.name in names]
    if missing := set(names) - {mutant.name for mutant in mutants}:
        raise SystemExit(f"There is no mutant {', '.join(sorted(missing))} in tests/mutants.")
    survived = errors = 0
    with copy_of_the_tree() as place:
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        sound = _pytest(tests, place)
        if sound.returncode != 0:
            print(f"Without any mutant the tests must pass:\n{sound.stdout[-2000:]}{sound.stderr[-500:]}")  # noqa: T201 - the command's answer
            return 1
        for mutant in mutants:
            try:
                blind = caught(mutant, place)
            except MutantError as error:
                errors += 1
                said = f"ERROR     {mutant.name}: {error}"
            else:
                survived += bool(blind)
                said = f"SURVIVED  {mutant.name}: {mutant.bug} Not seen by {', '.join(blind)}"
                said = said if blind else f"caught    {mutant.name}"
            print(said, flush=True)  # noqa: T201 - the command's answer
    errors_said = f", {errors} not tried" if errors else ""
    print(f"{len(mutants) - survived - errors} caught, {survived} survived{errors_said}")  # noqa: T201 - the command's answer
    return 1 if survived or errors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    raise SystemExit(main(parser.parse_args().names))
