"""``windlass run``, and the following that it shares with ``windlass runs logs``."""

import json
import sys
import time
from typing import Any, Final

import click

from windlass.cli import completion, output
from windlass.cli.connect import Access
from windlass.cli.exits import INTERRUPTED, RUN_FAILED
from windlass.cli.options import moment, reaches_api
from windlass.client import Client, RunHandle
from windlass.errors import ApiError

_SHOWN_RESULT: Final = 10_000
"""Characters of a result that a terminal is given; a pipe gets all of it."""

_AGAIN: Final = 0.5
"""Seconds until a lost answer is asked for again."""

_EXAMPLES: Final = """
\b
Examples:
  # Start a run and print its id
  windlass run order --payload '{"orderId": 7}'
  # Watch its log and steps until it ends; the result is the last line
  windlass run order --payload @order.json --follow
  # One run for each order, however often this is called
  windlass run order --payload '{"orderId": 7}' --idempotency-key order-7
  # In a pipeline: exit code 1 if the run fails
  jq -c .order event.json | windlass run order -p - --follow --timeout 30m
"""


@click.command(epilog=_EXAMPLES)
@click.argument("task", shell_complete=completion.tasks)
@click.option(
    "--payload", "-p", metavar="JSON|@FILE|-", default="null", help="A value, a file, or standard input. Default: null."
)
@click.option("--follow", "-f", is_flag=True, help="Show log and steps, and wait for the end.")
@click.option("--tag", multiple=True, help="A word to find the run by; may be repeated.")
@click.option(
    "--version", type=click.IntRange(min=1), metavar="NUMBER", help="A version of the Task; the current one by default."
)
@click.option(
    "--idempotency-key",
    metavar="WORD",
    help="One run for each word: a repeat within 30 days finds that run, unless it failed. A lost answer is repeated.",
)
@click.option("--delay", metavar="DURATION", help="Start no earlier than this long from now, such as 10m.")
@click.option("--start-at", type=moment, metavar="TIME", help="Start no earlier than this time.")
@click.option(
    "--queue-ttl", metavar="DURATION", help="Let it expire if it has not begun this long after it might have."
)
@reaches_api
def run(access: Access, task: str, payload: str, follow: bool, tag: tuple[str, ...], **options: Any) -> None:
    """Start a run of a Task.

    The run is durable once this prints its id: it goes on whatever becomes of this command.
    """
    from windlass.cli.payload import read_payload

    value = read_payload(payload)
    client = access.client()
    handle = _start(client, task, value, tags=tag, **options)
    if not follow:
        output.say(handle.id)
        return
    output.tell(f"run {handle.id}")
    if follow_to_end(access, client, handle.id)["state"] != "Succeeded":
        raise click.exceptions.Exit(RUN_FAILED)
    _show_result(client, handle.id)


def _start(client: Client, task: str, payload: Any, **options: Any) -> RunHandle:
    """Start the run. Only with a key may a call be repeated whose answer was lost: else it may start a second run."""
    until = time.monotonic() + client.timeout
    while True:
        try:
            return client.trigger(task, payload, **options)
        except ApiError as error:
            passing = error.status in (0, 429, 502, 503, 504) and error.code != "NotConfigured"
            if not (passing and options["idempotency_key"]) or time.monotonic() >= until:
                raise
            time.sleep(_AGAIN)


def follow_to_end(access: Access, client: Client, run: str) -> dict[str, Any]:
    """Follow a run and return it. Who interrupts this is told that the run goes on, and how to find it again."""
    from windlass.cli.choosing import view
    from windlass.cli.follow import Follower, how_to_go_on

    try:
        with view() as shown:
            ended = Follower(access, client, run, shown).follow()
    except KeyboardInterrupt:
        output.tell(f"\nRun {run} goes on. {how_to_go_on(run, access)}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if ended["state"] != "Succeeded":
        why = ended.get("message") or ended.get("reason") or ""
        output.tell(f"run {ended['id']} {ended['state']}: {why}")
        if ended.get("error"):
            output.tell(f"  {ended['error']['type']}: {ended['error']['message']}")
    return ended


def _show_result(client: Client, run: str) -> None:
    text = json.dumps(client.result(run, "30s"), ensure_ascii=False)
    if sys.stdout.isatty() and len(text) > _SHOWN_RESULT:
        output.say(text[:_SHOWN_RESULT])
        output.tell(f"… {len(text)} characters in all; with the output in a pipe or a file it is shown whole")
        return
    output.say(text)
