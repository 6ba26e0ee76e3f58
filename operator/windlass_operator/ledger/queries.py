"""Named SQL: every statement lives in a ``.sql`` file, readable in psql and diffable in review."""

import re
from functools import cache
from importlib.resources import files
from typing import Final, LiteralString

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(module: str) -> dict[str, LiteralString]:
    """Return the statements of ``sql/<module>.sql`` by name.

    Comments are removed before a statement is sent: they are for readers, not for the parser on the other side.
    """
    # The files are part of this package, as constant as a literal in the code.
    text: LiteralString = (files(__package__) / "sql" / f"{module}.sql").read_text()
    parts = _NAME.split(text)[1:]
    statements = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        lines = [line.split("  -- ")[0].rstrip() for line in body.splitlines()]
        kept = " ".join(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("--"))
        statements[name] = kept.rstrip(";")
    return statements
