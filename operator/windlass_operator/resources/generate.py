"""Writes what is made from code: ``python -m windlass_operator.resources.generate --write`` or ``--check``."""

import argparse
import sys
from pathlib import Path
from typing import Final

from windlass_operator.resources import crd, pages

_ROOT: Final = Path(__file__).resolve().parents[3]


def main(arguments: list[str] | None = None) -> int:
    """Write or check the committed files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windlass_operator.resources.generate", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="fail if a committed file differs")
    parser.add_argument("--root", type=Path, default=_ROOT, help="the checkout (default: the one this module is in)")
    options = parser.parse_args(arguments)
    if options.write:
        crd.write(options.root)
        pages.write(options.root)
        return 0
    problems = crd.differences(options.root) + pages.differences(options.root)
    for problem in problems:
        sys.stderr.write(f"{problem}: run `make generate` and commit\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
