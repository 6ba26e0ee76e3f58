"""What people read: tables, or the same as JSON, YAML or names."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from windlass.durations import format_duration

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show_runs(runs: list[dict[str, Any]], form: str) -> None:
    """Print runs as ``table``, ``wide``, ``json``, ``yaml`` or ``name``."""
    if form in ("json", "yaml"):
        show_data(runs, form)
        return
    if form == "name":
        for run in runs:
            console.print(run["id"], markup=False)
        return
    columns = ["ID", "TASK", "STATE", "ATTEMPT", "REASON", "AGE"] + (
        ["NAME", "POD", "DURATION"] if form == "wide" else []
    )
    rows = []
    for run in runs:
        row = [run["id"], run["task"], run["state"], str(run.get("attempt") or 0), run.get("reason") or "", _age(run)]
        if form == "wide":
            row += [run.get("name") or "", run.get("podName") or "", run.get("duration") or ""]
        rows.append(row)
    show_table(columns, rows)


def show_table(columns: list[str], rows: Iterable[list[str]]) -> None:
    """Print a plain table, as kubectl does."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*[text.replace("[", r"\[") for text in row])
    # Piped, nothing is cut: programs and files have no width.
    wide = console if console.is_terminal else Console(highlight=False, width=1000)
    wide.print(table, soft_wrap=False, crop=False, overflow="ignore")


def show_data(value: Any, form: str) -> None:
    """Print a value as JSON or YAML."""
    text = json.dumps(value, indent=2, ensure_ascii=False) if form == "json" else yaml.safe_dump(value, sort_keys=False)
    console.print(text.rstrip(), markup=False)


def show_run(run: dict[str, Any], steps: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    """Print one run: what it is, why it stands where it stands, its steps with their times, what happened."""
    for title, key in (
        ("Run", "id"),
        ("Name", "name"),
        ("Task", "task"),
        ("State", "state"),
        ("Reason", "reason"),
        ("Message", "message"),
        ("Attempt", "attempt"),
        ("Pod", "podName"),
        ("Duration", "duration"),
    ):
        if run.get(key) is not None:
            console.print(f"{title + ':':<10}{run[key]}", markup=False)
    if run.get("error"):
        console.print(f"{'Error:':<10}{run['error']['type']}: {run['error']['message']}", markup=False)
    start = _time(run.get("startedAt")) or _time(run["createdAt"])
    if steps:
        console.print()
        show_table(["STEP", "STATE", "ATTEMPT", "START", "TOOK", "RESULT"], (_step(step, start) for step in steps))
    if events:
        console.print()
        rows = [
            [
                _offset(_time(e["at"]), start),
                e["type"],
                str(e.get("attempt") or ""),
                e.get("reason") or "",
                e.get("message") or "",
            ]
            for e in events
        ]
        show_table(["AT", "EVENT", "ATTEMPT", "REASON", "MESSAGE"], rows)


def _step(step: dict[str, Any], start: datetime | None) -> list[str]:
    began, ended = _time(step["startedAt"]), _time(step.get("finishedAt"))
    took = format_duration(ended - began) if began and ended else ""
    if step.get("resultRef"):
        result = f"{step['resultRef']['size']} bytes, sha256 {step['resultRef']['sha256'][:12]}…"
    elif step.get("error"):
        result = f"{step['error']['type']}: {step['error']['message']}"
    else:
        result = json.dumps(step.get("result"), ensure_ascii=False) if "result" in step else ""
    return [step["key"], step["state"], str(step["attempt"]), _offset(began, start), took, result[:60]]


def _offset(at: datetime | None, start: datetime | None) -> str:
    return "" if at is None or start is None else f"+{format_duration(max(at - start, timedelta(0)))}"


def _age(run: dict[str, Any]) -> str:
    created = _time(run["createdAt"])
    return format_duration(datetime.now(UTC) - created) if created else ""


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
