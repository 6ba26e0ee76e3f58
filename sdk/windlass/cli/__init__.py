"""The command line: ``windlass``, and ``kubectl windlass``."""

import sys


def main() -> None:
    """Run the command line, or say which extra is missing."""
    try:
        from windlass.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "yaml"):
            raise
        print("The command line is an extra: pip install 'windlass[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app()
