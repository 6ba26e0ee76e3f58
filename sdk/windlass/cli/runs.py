"""``windlass runs``: list, get, tree, logs, cancel, resume."""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import click

from windlass.cli import completion, output
from windlass.cli.connect import Access
from windlass.cli.exits import RUN_FAILED
from windlass.cli.options import moment, output_option, reaches_api, run_argument
from windlass.cli.output import Form
from windlass.cli.trigger import follow_to_end
from windlass.cli.watch import Watch, on_screen, redrawn
from windlass.client import FINAL_STATES, Client

_PAGE: Final = 500
_SORTS: Final = ("created", "-created", "finished", "-finished")

_EXAMPLES: Final = """
\b
Examples:
  # What failed in the last hour, and where
  windlass runs list --state Failed --state TimedOut --since 1h -o wide
  # Cancel all that waits with a tag
  windlass runs list --state Queued --tag eu --limit 0 -o name |
    xargs -n1 windlass runs cancel
  # Watch a task's runs
  windlass runs list --task order --watch
"""
_GET: Final = """
\b
Examples:
  # State, reason, steps and events
  windlass runs get order-1
  # The same until it ends; exit code 1 if it fails
  windlass runs get order-1 --watch
  # The result alone
  windlass runs get order-1 -o json | jq .result
"""
_LOGS: Final = """
\b
Examples:
  # What all attempts have written so far
  windlass runs logs order-1
  # And what comes; exit code 1 if the run fails
  windlass runs logs order-1 --follow
"""
_CANCEL: Final = """
\b
Examples:
  # By the name of its resource, or by its id
  windlass runs cancel order-1
  # And wait until its code has cleaned up
  windlass runs cancel order-1 && windlass runs get order-1 --watch
"""

_RESUME: Final = """
\b
Examples:
  # After the corrected Task is applied
  windlass runs resume order-1
  # With an earlier version of it
  windlass runs resume order-1 --version 3
"""
_TREE: Final = """
\b
Examples:
  # A run and all that it has led to
  windlass runs tree order-1
  # What has failed in it
  windlass runs tree order-1 -o json | jq '.[] | select(.state == "Failed")'
"""

_output: Final = click.option(
    "--output", "-o", "form", type=click.Choice([*Form]), default=Form.table, help="How to print it. Default: table."
)
_watch: Final = click.option("--watch", "-w", is_flag=True, help="Go on, and show what changes.")


@click.group()
def runs() -> None:
    """List, read, cancel and resume runs."""


@runs.command("list", epilog=_EXAMPLES)
@click.option("--task", metavar="NAME", help="Of this Task.", shell_complete=completion.tasks)
@click.option("--parent", metavar="ID", help="Started by the code of this run.")
@click.option(
    "--state",
    multiple=True,
    type=click.Choice(completion.STATES, case_sensitive=False),
    metavar="STATE",
    shell_complete=completion.states,
    help="In this state, such as Failed. Repeated: in any of these.",
)
@click.option("--tag", multiple=True, help="With this tag. Repeated: with all of these.")
@click.option("--since", type=moment, metavar="AGE|TIME", help="Created since then: 1h30m ago, or a time.")
@click.option("--before", type=moment, metavar="AGE|TIME", help="Created before then.")
@click.option("--finished-since", type=moment, metavar="AGE|TIME", help="Finished since then.")
@click.option("--finished-before", type=moment, metavar="AGE|TIME", help="Finished before then.")
@click.option("--error", metavar="TEXT", help="With this text in message or error, or with this reason.")
@click.option("--sort", type=click.Choice(_SORTS), help="A minus puts the newest first. Default: -created.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="NUMBER", default=50, help="At most so many; 0 for all. Default: 50."
)
@_output
@_watch
@reaches_api
def list_runs(
    access: Access,
    *,
    since: datetime | None,
    before: datetime | None,
    finished_since: datetime | None,
    finished_before: datetime | None,
    limit: int,
    form: Form,
    watch: bool,
    **filters: Any,
) -> None:
    """List runs, newest first."""
    filters |= {"createdAfter": _time(since), "createdBefore": _time(before)}
    filters |= {"finishedAfter": _time(finished_since), "finishedBefore": _time(finished_before)}
    client = access.client()
    if not watch:
        found, more = _listed(client, filters, limit)
        output.show_runs(found, form)
        if more and form in (Form.table, Form.wide):
            output.tell(f"There are more than these {len(found)}; --limit 0 lists all.")
        return
    watched = Watch(form, access.timeout.total_seconds() if access.timeout else None)
    looks = watched.looks(lambda: _listed(client, filters, limit)[0])
    if not on_screen(form):
        for found in looks:
            watched.append(found)
        return
    with redrawn() as draw:
        for found in looks:
            draw(output.table(output.columns(form), [output.row(run, form) for run in found]))


def _listed(client: Client, filters: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return up to ``limit`` runs, and whether there are more."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        size = min(_PAGE, limit - len(found)) if limit else _PAGE
        page = client.list_page(**filters, limit=size, cursor=cursor)
        found += page["items"]
        cursor = page["nextCursor"]
        if cursor is None or (limit and len(found) >= limit):
            return found, cursor is not None


@runs.command("get", epilog=_GET)
@run_argument
@_output
@_watch
@reaches_api
def get_run(access: Access, run: str, form: Form, watch: bool) -> None:
    """Show a run: its state and why, its steps and attempts with their times, what happened.

    RUN is its id, or the name of its Run resource.
    """
    client = access.client()
    if not watch:
        found = client.get(run)
        if form == Form.table:
            output.show_run(found, _details(client, found["id"]))
        elif form in (Form.json, Form.yaml):
            output.show_data(found, form)
        else:
            output.show_runs([found], form)
        return
    watched = Watch(form, access.timeout.total_seconds() if access.timeout else None)
    _end(_watch_screen(client, run, watched) if on_screen(form) else _watch_lines(client, run, watched))


def _details(client: Client, run_id: str) -> output.Details:
    return output.Details(client.steps(run_id), client.attempts(run_id), client.events(run_id))


def _watch_screen(client: Client, run: str, watched: Watch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with redrawn() as draw:
        for found in watched.looks(lambda: client.get(run)):
            draw(output.describe(found, _details(client, found["id"])))
            if found["state"] in FINAL_STATES:
                break
    return found


def _watch_lines(client: Client, run: str, watched: Watch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for found in watched.looks(lambda: client.get(run)):
        watched.append([found])
        if found["state"] in FINAL_STATES:
            break
    return found


def _end(run: dict[str, Any]) -> None:
    """Who waits for the end gets an exit code that tells it."""
    if run.get("state") in FINAL_STATES and run["state"] != "Succeeded":
        raise click.exceptions.Exit(RUN_FAILED)


@runs.command("tree", epilog=_TREE)
@run_argument
@output_option
@reaches_api
def tree(access: Access, run: str, form: str) -> None:
    """Show a run with the runs that its code has started, and theirs.

    RUN is its id, or the name of its Run resource.
    """
    found = access.client().tree(run)
    nodes = found["items"]
    if form in (Form.json, Form.yaml):
        output.show_data(nodes, form)
    elif form == Form.name:
        output.write("".join(f"{node['id']}\n" for node in nodes))
    else:
        output.show_tree(nodes)
    if found["truncated"]:
        output.tell(
            f"There are more than these {len(nodes)} runs; `windlass runs tree` of one of them shows what is below."
        )


@runs.command("logs", epilog=_LOGS)
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends; show its steps meanwhile.")
@reaches_api
def run_logs(access: Access, run: str, follow: bool) -> None:
    """Print the log of all attempts of a run.

    RUN is its id, or the name of its Run resource.
    """
    client = access.client()
    if follow:
        _end(follow_to_end(access, client, run))
        return
    after = "0.0"
    while True:
        page = client.call("GET", f"runs/{quote(run, safe='')}/logs", query={"after": after, "limit": 5000})
        output.write("".join(f"{line['text']}\n" for line in page["items"]))
        if page["finished"] or not page["items"]:
            return
        after = page["nextCursor"]


@runs.command("cancel", epilog=_CANCEL)
@run_argument
@reaches_api
def cancel_run(access: Access, run: str) -> None:
    """Cancel a run.

    Its code gets ten seconds to clean up. RUN is its id, or the name of its Run resource.
    """
    found = access.client().cancel(run)
    if found["state"] in FINAL_STATES and found["state"] != "Cancelled":
        output.tell(f"run {found['id']} had already ended: {found['state']}")
        return
    output.say(f"{found['id']} {found['state']}")


@runs.command("resume", epilog=_RESUME)
@run_argument
@click.option(
    "--version", type=click.IntRange(min=1), metavar="NUMBER", help="Of its Task. Default: the newest version."
)
@reaches_api
def resume_run(access: Access, run: str, version: int | None) -> None:
    """Let a suspended run go on after its finished steps.

    RUN is its id, or the name of its Run resource.
    """
    found = access.client().resume(run, version=version)
    output.say(f"{found['id']} {found['state']}")


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
