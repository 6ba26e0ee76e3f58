"""``windlass pools``: what the pods of worker pools do."""

from typing import Any, Final

import click

from windlass.cli import output
from windlass.cli.connect import Access
from windlass.cli.options import output_option, reaches_api

_LIST: Final = """
\b
Examples:
  # What each pool has, and what its pods do
  windlass pools list
  # Have exactly five pods, and let Windlass decide again
  kubectl scale workerpool fast --replicas 5
  kubectl patch workerpool fast --type merge -p '{"spec": {"replicas": null}}'
"""
_COLUMNS: Final = ("NAME", "PODS", "READY", "BUSY", "MIN", "MAX", "SLOTS", "RUNNING", "QUEUED")


@click.group()
def pools() -> None:
    """See what the pods of worker pools do."""


@pools.command("list", epilog=_LIST)
@output_option
@reaches_api
def list_pools(access: Access, form: str) -> None:
    """List worker pools by name. One that a Task names and that is not there has ? in the place of its limits."""
    output.show_items(access.client().pools(), form, _COLUMNS, _row)


def _row(pool: dict[str, Any]) -> list[str]:
    if pool["missing"]:
        limits = ["?", "?", "?"]
    else:
        fewest, most = (pool["minReplicas"], pool["maxReplicas"]) if pool["wanted"] is None else (pool["wanted"],) * 2
        limits = [str(fewest), str(most), str(pool["slots"])]
    counts = [str(pool[name]) for name in ("replicas", "ready", "busy")]
    return [pool["name"], *counts, *limits, str(pool["running"]), str(pool["queued"])]
