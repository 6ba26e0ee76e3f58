"""Options that every command which calls the API has, written once, and the types of options."""

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from windlass.cli import completion
from windlass.cli.connect import Access
from windlass.cli.exits import refusals
from windlass.durations import InvalidDurationError, parse_duration


def duration(text: str | timedelta) -> timedelta:
    """Read a duration such as ``1h30m``."""
    try:
        return parse_duration(text)
    except InvalidDurationError as error:
        raise click.BadParameter(str(error)) from None


def moment(text: str | datetime) -> datetime:
    """Read a duration back from now, or a time. Without a zone it is that of this machine."""
    if isinstance(text, datetime):
        return text
    try:
        return datetime.now(UTC) - parse_duration(text)
    except InvalidDurationError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        example = "a duration such as 1h30m nor a time such as 2030-01-31T08:00:00Z"
        raise click.BadParameter(f"{text[:40]!r} is neither {example}.") from None


run_argument: Final = click.argument("run", shell_complete=completion.runs)
"""Id of the run, or name of its Run resource."""

output_option: Final = click.option(
    "--output",
    "-o",
    "form",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    help="How to print it. Default: table.",
)
"""For lists that have no wide form."""

_SHARED: Final = (
    click.option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Default: WINDLASS_NAMESPACE, else that of the kubectl context.",
        shell_complete=completion.namespaces,
    ),
    click.option(
        "--context",
        metavar="NAME",
        help="A context of kubectl. It then finds the API, whatever WINDLASS_URL says.",
        shell_complete=completion.contexts,
    ),
    click.option("--kubeconfig", metavar="FILE", help="As for kubectl."),
    click.option(
        "--service-account",
        metavar="NAME",
        default="default",
        envvar="WINDLASS_SERVICE_ACCOUNT",
        help="Whose token to ask kubectl for, where WINDLASS_TOKEN is not set. Default: default.",
    ),
    click.option(
        "--timeout",
        type=duration,
        metavar="DURATION",
        help="Give up after this long, such as 30s or 2h. Default: 30s for an answer; following has no limit.",
    ),
)


def reaches_api(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, and what they lead to as its first argument; turn errors into exit codes."""

    @functools.wraps(command)
    def wrapped(
        *,
        namespace: str | None,
        context: str | None,
        kubeconfig: str | None,
        service_account: str,
        timeout: timedelta | None,
        **given: Any,
    ) -> None:
        access = Access(namespace, service_account, context=context, kubeconfig=kubeconfig, timeout=timeout)
        with refusals():
            command(access, **given)

    made: Callable[..., None] = wrapped
    for option in reversed(_SHARED):
        made = option(made)
    return made
