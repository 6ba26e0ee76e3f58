"""Writes ``docs/reference/cli.md`` from the commands: ``python -m windlass.cli.reference FILE``, or ``-``."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from windlass.cli.app import app

_HEAD: Final = """# The command line

Made from the commands by `make generate`; do not edit. `windlass COMMAND --help` prints the same.

`pip install 'windlass[cli]'` installs `windlass`, and `kubectl-windlass`, by which `kubectl windlass` is the same
command. [Completion](#windlass-completion) is there for both. The API is found through kubectl: a port-forward to the
Service `windlass-api`, and a token of a service account. `WINDLASS_URL` and `WINDLASS_TOKEN` (or `WINDLASS_TOKEN_FILE`)
do without kubectl.

| variable | meaning |
|---|---|
| `WINDLASS_URL` | Address of the API, such as `http://localhost:8080` |
| `WINDLASS_TOKEN`, `WINDLASS_TOKEN_FILE` | A Kubernetes token of audience `windlass`, or the file that holds it |
| `WINDLASS_NAMESPACE` | Namespace where `--namespace` is not given |
| `WINDLASS_SERVICE_ACCOUNT` | As `--service-account` |
| `WINDLASS_SYSTEM_NAMESPACE` | Where the control plane runs; default `windlass-system` |
| `NO_COLOR` | Set to anything: no colours |
| `WINDLASS_DEBUG` | Set to anything: a fault of the command line itself shows its traceback |

## Exit codes
| code | meaning |
|---|---|
| 0 | Fine. With `--follow` or `--watch`: the run has succeeded |
| 1 | The run that was followed or watched ended otherwise |
| 2 | Usage: an unknown option, a payload that is not JSON, a module without tasks |
| 3 | The API refused or cannot be reached; `--timeout` is over; `windlass doctor` found something that fails |
| 130 | Interrupted by Ctrl-C. A run that was followed goes on |
| 141 | Whoever read the output went away, as `head` does |

The answer is on standard output, everything about it on standard error. A stable code is the first word of an error;
where they are known, the field and what to do stand below it.
"""
_SHARED: Final = ("namespace", "context", "kubeconfig", "service_account", "timeout")


def page() -> str:
    """Return the page."""
    context = click.Context(app, info_name="windlass")
    parts = [_HEAD, *_sections(app, context)]
    shared = [p for p in app.commands["run"].params if p.name in _SHARED]
    lines = "".join(_row(option, context) for option in shared if isinstance(option, click.Option))
    title = "## Options of every command that calls the API\n| option | meaning |\n|---|---|\n"
    parts.insert(1, f"{title}{lines}")
    return "\n".join(parts)


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)
        else:
            yield _section(command, inner)


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    text = f"## `{context.command_path}`\n{_paragraphs(command.help or '')}\n\n`{context.command_path} {usage}`\n"
    own = [p for p in command.params if isinstance(p, click.Option) and p.name not in _SHARED]
    if context.command_path == "windlass manifests":
        own = [p for p in command.params if isinstance(p, click.Option)]
    if own:
        text += "\n| option | meaning |\n|---|---|\n" + "".join(_row(option, context) for option in own)
    examples = (command.epilog or "").partition("Examples:\n")[2]
    return f"{text}\n```sh\n{re.sub('(?m)^  ', '', examples).strip()}\n```\n"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None, "no option of ours is hidden"
    name, meaning = (text.replace("|", "\\|") for text in record)
    return f"| `{name}` | {meaning} |\n"


if __name__ == "__main__":
    if sys.argv[1] == "-":
        sys.stdout.write(page())
    else:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
