"""The commands, put together."""

import os
from typing import Any, Final

import click

from windlass.cli.approvals import approvals
from windlass.cli.completion import completion
from windlass.cli.connect import Access
from windlass.cli.dev import dev
from windlass.cli.events import events
from windlass.cli.exits import API, refusals, usage
from windlass.cli.options import reaches_api
from windlass.cli.output import Form, is_terminal, say, show_data, write
from windlass.cli.pools import pools
from windlass.cli.queues import explain, queues
from windlass.cli.runs import runs
from windlass.cli.trigger import run

_EXAMPLES: Final = """
\b
Examples:
  # Is everything in order, and if not, what to do
  windlass doctor
  # Start a run and watch it
  windlass run order --payload '{"orderId": 7}' --follow
  # What failed in the last hour
  windlass runs list --state Failed --since 1h
  # Why a run stands where it stands
  windlass explain order-1
"""
_MANIFESTS: Final = """
\b
Examples:
  # A module that travels inside the Task
  windlass manifests order.py --inline | kubectl apply -f -
  # Tasks of an image of your own
  windlass manifests shop.tasks --image registry.example.com/shop:1.4
"""
_DOCTOR: Final = """
\b
Examples:
  # From this machine to the ledger
  windlass doctor
  # As the account that an application uses
  windlass doctor -n shop --service-account checkout
  # From within: database, object store, what operator and API may do
  kubectl -n windlass-system exec deploy/windlass-operator -- windlass-operator doctor
"""
_COMPLETION: Final = """
\b
Examples:
  # For this shell; put it into ~/.bashrc for all
  source <(windlass completion bash)
  windlass completion zsh > ~/.zfunc/_windlass
  windlass completion fish > ~/.config/fish/completions/windlass.fish
"""


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        say(version("windlass"))
        ctx.exit()


@click.group(
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": False},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print the version."
)
def app() -> None:
    """Durable background tasks for Kubernetes.

    The API is found by WINDLASS_URL and WINDLASS_TOKEN (or WINDLASS_TOKEN_FILE), else it is that of `windlass dev`
    where it runs in this folder or one above, else kubectl finds it.

    Exit codes: 0 fine, 1 the run failed, 2 usage, 3 the API refused or cannot be reached.
    """


@app.command(epilog=_MANIFESTS)
@click.argument("module")
@click.option("--image", help="Image to run; default: the installation's runner image.")
@click.option("--inline", is_flag=True, help="Put the module's text into the Task, for an image without it.")
@click.option("--namespace", "-n", metavar="NAME", help="Namespace to write.")
def manifests(module: str, **options: Any) -> None:
    """Print the Task resources of a module with @task functions: a file such as order.py, or a name such as order."""
    from windlass.cli.manifests import manifests_of

    with refusals():
        try:
            text = manifests_of(module, **options)
        except (ImportError, OSError, ValueError, SyntaxError) as error:
            raise usage(f"{module}: {error}") from None
        write(text)


@app.command(epilog=_DOCTOR)
@click.option("--output", "-o", "form", type=click.Choice(["table", "json"]), default="table", help="Default: table.")
@reaches_api
def doctor(access: Access, form: str) -> None:
    """Look at cluster, resources, API, ledger, versions and permissions, and say how to mend what is wrong.

    Exit code 3 if something fails; a warning is no failure.
    """
    from windlass.cli.doctor import Doctor
    from windlass.findings import failed

    found = []
    for finding in Doctor(access).findings():
        found.append(finding)
        if form == "table":
            say(finding.line(coloured=is_terminal() and not os.environ.get("NO_COLOR")))
    if form == "json":
        show_data([finding.data() for finding in found], Form.json)
    if failed(found):
        raise click.exceptions.Exit(API)


completion.epilog = _COMPLETION
for command in (dev, run, runs, explain, queues, pools, approvals, events, completion):
    app.add_command(command)
