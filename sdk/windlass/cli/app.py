"""The commands."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from windlass.cli import output
from windlass.cli.connect import connect
from windlass.cli.manifests import manifests_of
from windlass.client import FINAL_STATES, Client
from windlass.errors import ApiError

RUN_FAILED: Final = 1
USAGE: Final = 2
API: Final = 3

app = typer.Typer(
    help=(
        "Durable background tasks for Kubernetes.\n\n"
        "The API is found through kubectl, or by WINDLASS_URL and WINDLASS_TOKEN (or WINDLASS_TOKEN_FILE).\n\n"
        "Exit codes: 0 fine, 1 the run failed, 2 usage, 3 the API refused or cannot be reached."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
runs = typer.Typer(help="List, read and cancel runs.", no_args_is_help=True)
app.add_typer(runs, name="runs")

Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: WINDLASS_NAMESPACE, else that of the kubectl context.")
]
ServiceAccount = Annotated[
    str,
    typer.Option(
        help="Whose token to ask kubectl for, where WINDLASS_TOKEN is not set.", envvar="WINDLASS_SERVICE_ACCOUNT"
    ),
]
Form = Annotated[str, typer.Option("--output", "-o", help="table, wide, json, yaml or name.")]
RunName = Annotated[str, typer.Argument(help="Id of the run, or name of its Run resource.")]


@contextmanager
def _api(namespace: str | None, service_account: str) -> Iterator[Client]:
    """Connect, and turn refusals into a message and an exit code."""
    try:
        yield connect(namespace, service_account)
    except ApiError as error:
        output.errors.print(f"{error.code}: {error.message}", markup=False)
        if error.hint:
            output.errors.print(error.hint, markup=False)
        raise typer.Exit(API) from None


@app.command()
def manifests(
    module: Annotated[str, typer.Argument(help="Module or file with @task functions, such as order or order.py.")],
    image: Annotated[str | None, typer.Option(help="Image to run; default: the installation's runner image.")] = None,
    inline: Annotated[bool, typer.Option(help="Put the module's text into the Task, for an image without it.")] = False,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace to write.")] = None,
) -> None:
    """Print the Task resources of a module, ready for kubectl.

    Example: windlass manifests order.py --inline | kubectl apply -f -
    """
    try:
        text = manifests_of(module, image=image, inline=inline, namespace=namespace)
    except (ImportError, OSError, ValueError, SyntaxError) as error:
        output.errors.print(f"{module}: {error}", markup=False)
        raise typer.Exit(USAGE) from None
    sys.stdout.write(text)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="Name of the Task.")],
    payload: Annotated[str, typer.Option(help="JSON, @FILE, or - for standard input.")] = "null",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the log and wait for the end.")] = False,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find the run by; may be repeated.")] = None,
    namespace: Namespace = None,
    service_account: ServiceAccount = "default",
) -> None:
    """Start a run of a Task.

    Example: windlass run order --payload '{"orderId": 7}' --follow
    """
    value = _payload(payload)
    with _api(namespace, service_account) as client:
        handle = client.trigger(task, value, tags=tuple(tag or ()))
        output.errors.print(f"run {handle.id}", markup=False)
        if not follow:
            output.console.print(handle.id, markup=False)
            return
        _follow(client, handle.id)
        _end(client, handle.id)


def _payload(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return json.loads(text)
    except OSError as error:
        output.errors.print(f"--payload: {error}", markup=False)
    except ValueError as error:
        output.errors.print(f"--payload is not JSON: {error}. Quote it: --payload '{{\"orderId\": 7}}'", markup=False)
    raise typer.Exit(USAGE)


def _follow(client: Client, run_id: str) -> None:
    after = "0.0"
    while True:
        page = client.logs(run_id, after=after, wait="20s")
        for line in page["items"]:
            output.console.print(line["text"], markup=False)
        after = page["nextCursor"]
        if page["finished"]:
            return


def _end(client: Client, run_id: str) -> None:
    """Print the result, or why there is none."""
    found = client.get(run_id)
    if found["state"] == "Succeeded":
        output.console.print(json.dumps(client.result(run_id, "30s"), ensure_ascii=False)[:10_000], markup=False)
        return
    why = found.get("message") or found.get("reason") or ""
    output.errors.print(f"{found['state']}: {why}", markup=False)
    raise typer.Exit(RUN_FAILED)


@runs.command("list")
def list_runs(
    state: Annotated[str | None, typer.Option(help="Only runs in this state, such as Failed.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs of this Task.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=500)] = 50,
    form: Form = "table",
    namespace: Namespace = None,
    service_account: ServiceAccount = "default",
) -> None:
    """List runs, newest first."""
    with _api(namespace, service_account) as client:
        page = client.list_page(state=state, task=task, limit=limit)
    output.show_runs(page["items"], form)


@runs.command("get")
def get_run(
    run: RunName, form: Form = "table", namespace: Namespace = None, service_account: ServiceAccount = "default"
) -> None:
    """Show a run: its state and why, its steps with their times, what happened."""
    with _api(namespace, service_account) as client:
        found = client.get(run)
        if form != "table":
            if form in ("json", "yaml"):
                output.show_data(found, form)
            else:
                output.show_runs([found], form)
            return
        output.show_run(found, client.steps(found["id"]), client.events(found["id"]))


@runs.command("logs")
def run_logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    namespace: Namespace = None,
    service_account: ServiceAccount = "default",
) -> None:
    """Print the log of all attempts of a run."""
    with _api(namespace, service_account) as client:
        after = "0.0"
        while True:
            page = client.logs(run, after=after, wait="20s" if follow else "0s")
            for line in page["items"]:
                output.console.print(line["text"], markup=False)
            if page["finished"] or (not follow and not page["items"]):
                return
            after = page["nextCursor"]


@runs.command("cancel")
def cancel_run(run: RunName, namespace: Namespace = None, service_account: ServiceAccount = "default") -> None:
    """Cancel a run. Its code gets ten seconds to clean up."""
    with _api(namespace, service_account) as client:
        found = client.cancel(run)
    if found["state"] in FINAL_STATES and found["state"] != "Cancelled":
        output.errors.print(f"run {found['id']} had already ended: {found['state']}", markup=False)
        return
    output.console.print(f"{found['id']} {found['state']}", markup=False)
