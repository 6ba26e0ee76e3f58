"""The command line: ``windlass``, and ``kubectl windlass``."""

import gc
import sys


def main() -> None:
    """Run the command line, or say which extra is missing."""
    # One short process that frees nothing worth looking for; the collector would cost a tenth of the start.
    gc.disable()
    try:
        from windlass.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich", "yaml"):
            raise
        print("The command line is an extra: pip install 'windlass[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app(prog_name="kubectl windlass" if sys.argv[0].endswith("kubectl-windlass") else "windlass")


def complete_for_kubectl() -> None:
    """Complete ``kubectl windlass …``: kubectl calls ``kubectl_complete-windlass`` with the words so far."""
    from windlass.cli.app import app
    from windlass.cli.completion import answer_kubectl

    answer_kubectl(app, sys.argv[1:])
