"""``windlass queues`` and ``windlass explain``: what waits, and for what."""

from typing import Any, Final

import click

from windlass.cli import output
from windlass.cli.connect import Access
from windlass.cli.options import output_option, reaches_api, run_argument
from windlass.cli.output import Form

_LIST: Final = """
\b
Examples:
  # How full each queue is
  windlass queues list
  # Let nothing start, and let it start again
  kubectl patch queue payments --type merge -p '{"spec": {"paused": true}}'
  kubectl patch queue payments --type merge -p '{"spec": {"paused": false}}'
"""
_EXPLAIN: Final = """
\b
Examples:
  # Everything that a run waits for
  windlass explain order-1
  windlass explain order-1 -o json | jq -r '.waitsFor[].reason'
"""
_COLUMNS: Final = ("NAME", "RUNNING", "LIMIT", "QUEUED", "DELAYED", "PAUSED", "OLDEST")


@click.group()
def queues() -> None:
    """See how full queues are."""


@queues.command("list", epilog=_LIST)
@output_option
@reaches_api
def list_queues(access: Access, form: str) -> None:
    """List queues by name, with their limits. A Task that names no queue has one with its own name."""
    output.show_items(access.client().queues(), form, _COLUMNS, _row)


def _row(queue: dict[str, Any]) -> list[str]:
    limit = "?" if queue["missing"] else str(queue["concurrency"] or "-")
    oldest = output.age({"createdAt": queue["oldest"]}) if queue["oldest"] else "-"
    paused = "yes" if queue["paused"] else "-"
    return [queue["name"], str(queue["running"]), limit, str(queue["queued"]), str(queue["delayed"]), paused, oldest]


@click.command(epilog=_EXPLAIN)
@run_argument
@click.option(
    "--output", "-o", "form", type=click.Choice(["table", "json", "yaml"]), default="table", help="Default: table."
)
@reaches_api
def explain(access: Access, run: str, form: str) -> None:
    """Say why a run is not running: everything that it waits for, not only the first.

    RUN is its id, or the name of its Run resource.
    """
    found = access.client().explain(run)
    if form != Form.table:
        output.show_data(found, form)
        return
    output.say(f"{found['id']} {found['state']}")
    for gate in found["waitsFor"]:
        output.say(f"  {gate['reason']}: {gate['message']}")
    if not found["waitsFor"]:
        output.say(f"  {found['reason'] or found['state']}: {found['message'] or 'It waits for nothing.'}")
    if found["ahead"]:
        one = found["ahead"] == 1
        output.say(f"  {found['ahead']} {'run goes' if one else 'runs go'} before it in queue {found['queue']}")
