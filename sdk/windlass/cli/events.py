"""``windlass events``: tell waiting runs that something has happened."""

import time
from typing import Any, Final

import click

from windlass.cli import output
from windlass.cli.connect import Access
from windlass.cli.options import reaches_api
from windlass.errors import ApiError

_AGAIN: Final = 0.5
"""Seconds until a lost answer is asked for again."""

_EXAMPLES: Final = """
\b
Examples:
  # Every run of the namespace that waits for it goes on
  windlass events send payment.received '{"orderId": 7}'
  # From a file, or from standard input
  windlass events send payment.received @payment.json
  jq -c .payment event.json | windlass events send payment.received -
  # Once, however often this is called
  windlass events send payment.received '{"orderId": 7}' --id payment-81
"""


@click.group()
def events() -> None:
    """Send events, which runs wait for."""


@events.command(epilog=_EXAMPLES)
@click.argument("name")
@click.argument("payload", metavar="[JSON|@FILE|-]", default="null")
@click.option(
    "--id",
    "event_id",
    metavar="WORD",
    help="A word for this event: a repeat reaches nobody again. Without it, one is made up.",
)
@reaches_api
def send(access: Access, name: str, payload: str, event_id: str | None) -> None:
    """Send an event to the runs of the namespace.

    It reaches every run that was created before and waits for it, now or later. Prints the event's id.
    """
    from uuid import uuid4

    from windlass.cli.payload import read_payload

    value = read_payload(payload, "PAYLOAD")
    # An id of our own makes it safe to repeat a call whose answer was lost.
    sent = _send(access, name, value, event_id or str(uuid4()))
    output.say(sent.id)
    output.tell(
        f"{sent.runs} {'run' if sent.runs == 1 else 'runs'} got it; those that wait for it later are not counted"
    )


def _send(access: Access, name: str, payload: Any, event_id: str) -> Any:
    client = access.client()
    until = time.monotonic() + client.timeout
    while True:
        try:
            return client.send_event(name, payload, id=event_id)
        except ApiError as error:
            passing = error.status in (0, 429, 502, 503, 504) and error.code != "NotConfigured"
            if not passing or time.monotonic() >= until:
                raise
            time.sleep(_AGAIN)
