"""The payload that a person writes: JSON, a file, or standard input."""

import json
import sys
from pathlib import Path
from typing import Any

from windlass.cli.exits import usage


def read_payload(text: str, given: str = "--payload") -> Any:
    """Return the value of ``--payload``: JSON, ``@FILE``, or ``-``.

    Args:
        text: What was written.
        given: How the option or argument is called.

    Raises:
        click.exceptions.Exit: It cannot be read, or is not JSON that every reader understands alike; the reason is
            printed.
    """
    where = given
    try:
        if text == "-":
            where, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            where, text = text[1:], Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except OSError as error:
        raise usage(f"{given}: {error}") from None
    except RecursionError:
        raise usage(f"{where} is nested too deeply.") from None
    except ValueError as error:
        hint = " Quote it: --payload '{\"orderId\": 7}'" if where == "--payload" else ""
        raise usage(f"{where} is not JSON: {error}.{hint}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, and readers differ on which one counts")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
