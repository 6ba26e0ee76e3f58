"""The page about the command line is the command line's own words."""

from pathlib import Path

from windlass.cli.reference import page

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_says_what_the_commands_say() -> None:
    assert PAGE.read_text() == page(), "run `make generate` and commit"
