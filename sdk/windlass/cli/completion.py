"""Completion: names come from the API, quickly or not at all. Whatever goes wrong, the shell sees no suggestions."""

import sys
from collections.abc import Callable
from typing import Final

import click

from windlass.cli.connect import Access

PATIENCE: Final = 1.5
"""Seconds after which a person would rather type on."""
_UNFINISHED: Final = ("Queued", "Running", "Waiting", "Suspended", "Cancelling", "Compensating")
STATES: Final = (*_UNFINISHED, "Succeeded", "Failed", "TimedOut", "Cancelled", "Expired")
SHELLS: Final = ("bash", "zsh", "fish")


def tasks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a Task."""
    return _names(ctx, incomplete, "task", "tasks.windlass.dev")


def runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the id of a run, or the name of its resource once letters are there that no id has."""
    field = "id" if all(letter in "0123456789abcdef-" for letter in incomplete) else "name"
    return _names(ctx, incomplete, field, "runs.windlass.dev")


def approvals(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of an approval that waits for a decision."""
    return _names(ctx, incomplete, "approval", "approvals.windlass.dev")


def namespaces(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a namespace."""
    return _names(ctx, incomplete, "", "namespaces")


def contexts(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a context of kubectl."""

    def ask() -> list[str]:
        return Access().kubectl("config", "get-contexts", "-o", "name", patience=PATIENCE).split()

    return [name for name in _in_time(ask) if name.startswith(incomplete)]


def states(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a state, as it is written; any case will do."""
    return [state for state in STATES if state.lower().startswith(incomplete.lower())]


def _names(ctx: click.Context, incomplete: str, field: str, kind: str) -> list[str]:
    given = ctx.params
    access = Access(given.get("namespace"), context=given.get("context"), kubeconfig=given.get("kubeconfig"))

    def ask() -> list[str]:
        if field and access.by_environment:
            return _by_api(access, field)
        # A port-forward takes too long for a person who waits on a key; kubectl knows the resources.
        where = ["-n", access.namespace] if access.namespace and kind != "namespaces" else []
        flags = ["--request-timeout=1s", "-o", "jsonpath={.items[*].metadata.name}"]
        return access.kubectl("get", kind, *where, *flags, patience=PATIENCE).split()

    return [name for name in _in_time(ask) if name.startswith(incomplete)]


def _by_api(access: Access, field: str) -> list[str]:
    client = access.client()
    client.timeout = PATIENCE
    if field == "approval":
        return [found["name"] for found in client.approvals_page(state=("Pending",), limit=200)["items"]]
    found = [run.get(field) for run in client.list_page(limit=200)["items"]]
    return list(dict.fromkeys(name for name in found if name))


def _in_time(ask: Callable[[], list[str]]) -> list[str]:
    """Return what ``ask`` finds in time. A name server that hangs cannot be given a limit, a thread can."""
    import contextlib
    import threading

    found: list[str] = []

    def look() -> None:
        with contextlib.suppress(Exception):
            found.extend(ask())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(found)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from windlass.cli.output import say

    kind = get_completion_class(shell)
    assert kind is not None, "click completes the shells that we name"
    say(kind(context.find_root().command, {}, "windlass", "_WINDLASS_COMPLETE").source())


def answer_kubectl(app: click.Command, words: list[str]) -> None:
    """Answer kubectl, which wants one suggestion a line and a number at the end (4: do not suggest files)."""
    from click.shell_completion import ShellComplete

    found: list[str] = []
    if words:
        complete = ShellComplete(app, {}, "windlass", "_WINDLASS_COMPLETE")
        items = complete.get_completions(words[:-1], words[-1])
        found = [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in items]
    sys.stdout.write("".join(f"{line}\n" for line in [*found, ":4"]))
