"""``windlass dev``: the whole of Windlass on this machine."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from windlass.cli.exits import API, INTERRUPTED, usage
from windlass.cli.output import tell

_EXAMPLES: Final = """
\b
Examples:
  # Tasks of a file, or of all files of a folder that use @task; from a second terminal: windlass run NAME
  windlass dev order.py
  windlass dev .
  # Task and Run resources as for kubectl
  windlass dev deploy/
  # Start from nothing
  windlass dev . --reset

\b
The state is in ./.windlass: start it in the same folder to go on with the same runs. One that is killed
leaves nothing behind, and the next start goes on where it was.
"""


@click.command(epilog=_EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@click.option("--port", type=click.IntRange(0, 65535), help="Of the API; 0 for any that is free. Default: 8640.")
@click.option("--reset", is_flag=True, help="Forget all runs first.")
@click.option(
    "--token",
    metavar="WORD",
    envvar="WINDLASS_DEV_TOKEN",
    help="Serve only callers that send this as their WINDLASS_TOKEN. Default: everybody on this machine.",
)
@click.option("--verbose", is_flag=True, help="Show what the control plane logs, too.")
def dev(**given: Any) -> None:
    """Run tasks on this machine: no cluster, no containers.

    PATH is a Python file, a YAML file, or a folder of either (default: this one). The control plane is the one that
    runs in a cluster, with its own PostgreSQL and a process for each run in the place of a pod. A file that is saved
    is loaded again.

    Needs more than the command line: pip install 'windlass[dev]'
    """
    missing = [name for name in ("windlass_operator", "windlass_runner", "watchfiles") if find_spec(name) is None]
    if missing:
        raise usage("Local mode is not installed. Install it with: pip install 'windlass[dev]'")
    # By name: the SDK must not depend on the control plane, and everything else must start without it.
    server = importlib.import_module("windlass_operator.local.dev")
    expected = importlib.import_module("windlass_operator.domain.errors").WindlassError
    try:
        server.develop(server.Options(**given))
    except expected as error:
        tell(f"{error.code}: {error.message}")
        if error.hint:
            tell(f"  hint:  {error.hint}")
        raise click.exceptions.Exit(API) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
