"""``windlass approvals``: what runs ask people, and the answer."""

import json
from typing import Any, Final

import click

from windlass.cli import completion, output
from windlass.cli.connect import Access
from windlass.cli.options import reaches_api
from windlass.cli.output import Form
from windlass.client import Client

_STATES: Final = ("Pending", "Approved", "Refused", "Expired", "Withdrawn")
_PAGE: Final = 500
_LIST: Final = """
\b
Examples:
  # What waits for somebody's decision
  windlass approvals list
  # Who decided what
  windlass approvals list --state Approved --state Refused
  windlass approvals list --all
"""
_GET: Final = """
\b
Examples:
  # The question and its details
  windlass approvals get order-w3kq7c2mza
  windlass approvals get order-w3kq7c2mza -o json | jq .details
"""
_APPROVE: Final = """
\b
Examples:
  # The comment is for the run, too
  windlass approvals approve order-w3kq7c2mza --comment 'checked the invoice'
"""
_REFUSE: Final = """
\b
Examples:
  # The run goes on, and hears the answer
  windlass approvals refuse order-w3kq7c2mza --comment 'paid already'
"""

_output: Final = click.option(
    "--output", "-o", "form", type=click.Choice([*Form]), default=Form.table, help="How to print it. Default: table."
)
_name: Final = click.argument("name", shell_complete=completion.approvals)
_comment: Final = click.option("--comment", metavar="TEXT", help="Why, for the run and for whoever reads it later.")


@click.group()
def approvals() -> None:
    """List what runs ask people, and decide."""


@approvals.command("list", epilog=_LIST)
@click.option(
    "--state",
    multiple=True,
    type=click.Choice(_STATES, case_sensitive=False),
    metavar="STATE",
    help="In this state: Pending (the default), Approved, Refused, Expired or Withdrawn. Repeated: in any of these.",
)
@click.option("--all", "everything", is_flag=True, help="In any state.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="NUMBER", default=50, help="At most so many; 0 for all. Default: 50."
)
@_output
@reaches_api
def list_approvals(access: Access, *, state: tuple[str, ...], everything: bool, limit: int, form: Form) -> None:
    """List approvals, newest first: those that wait for a decision."""
    wanted = () if everything else state or ("Pending",)
    found, more = _listed(access.client(), wanted, limit)
    _show(found, form)
    if more and form in (Form.table, Form.wide):
        output.tell(f"There are more than these {len(found)}; --limit 0 lists all.")


def _listed(client: Client, states: tuple[str, ...], limit: int) -> tuple[list[dict[str, Any]], bool]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        size = min(_PAGE, limit - len(found)) if limit else _PAGE
        page = client.approvals_page(state=states, limit=size, cursor=cursor)
        found += page["items"]
        cursor = page["nextCursor"]
        if cursor is None or (limit and len(found) >= limit):
            return found, cursor is not None


def _show(found: list[dict[str, Any]], form: Form) -> None:
    wide = ["RUN", "EXPIRES", "COMMENT"] if form == Form.wide else []
    headings = ["NAME", "STATE", "TASK", "QUESTION", "BY", "AGE", *wide]
    output.show_items(found, form, headings, lambda approval: _row(approval, form))


def _row(approval: dict[str, Any], form: Form) -> list[str]:
    question = " ".join(approval["question"].split())
    short = question if len(question) <= 60 else f"{question[:59]}…"
    cells = [approval["name"], approval["state"], approval["task"], short, approval.get("by") or ""]
    cells.append(output.age(approval))
    if form == Form.wide:
        cells += [approval.get("runName") or approval["run"], approval.get("expiresAt") or ""]
        cells.append(approval.get("comment") or "")
    return cells


@approvals.command("get", epilog=_GET)
@_name
@_output
@reaches_api
def get_approval(access: Access, name: str, form: Form) -> None:
    """Show an approval: what is asked, the details, and what was decided."""
    found = access.client().approval(name)
    if form in (Form.json, Form.yaml):
        output.show_data(found, form)
    elif form == Form.table:
        output.write(_described(found))
    else:
        _show([found], form)


def _described(approval: dict[str, Any]) -> str:
    lines = [
        f"{title + ':':<10}{approval[key]}\n"
        for title, key in (
            ("Approval", "name"),
            ("State", "state"),
            ("Task", "task"),
            ("Run", "run"),
            ("Name", "runName"),
            ("Asked", "createdAt"),
            ("Expires", "expiresAt"),
            ("By", "by"),
            ("Ended", "endedAt"),
            ("Comment", "comment"),
            ("Question", "question"),
        )
        if approval.get(key) is not None
    ]
    if "details" in approval:
        lines.append(f"Details:\n{json.dumps(approval['details'], indent=2, ensure_ascii=False)}\n")
    return output.plain("".join(lines))


@approvals.command("approve", epilog=_APPROVE)
@_name
@_comment
@reaches_api
def approve(access: Access, name: str, comment: str | None) -> None:
    """Say yes; the run goes on.

    The decision is that of the token's owner, and final.
    """
    _decide(access, name, "Approved", comment)


@approvals.command("refuse", epilog=_REFUSE)
@_name
@_comment
@reaches_api
def refuse(access: Access, name: str, comment: str | None) -> None:
    """Say no; the run goes on and hears it.

    The decision is that of the token's owner, and final.
    """
    _decide(access, name, "Refused", comment)


def _decide(access: Access, name: str, decision: str, comment: str | None) -> None:
    found = access.client().decide(name, decision, comment=comment)
    output.say(f"{found['name']} {found['state']} by {found['by']}")
