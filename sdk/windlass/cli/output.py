"""What people and programs read: tables, or the same as JSON, YAML or names. Needs no rich: a table starts at once."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, TextIO

from windlass.durations import format_duration

_COLOURS: Final = {"Succeeded": 32, "succeeded": 32, "Running": 36, "running": 36, "Failed": 31, "failed": 31} | {
    "TimedOut": 31,
    "Expired": 33,
    "Approved": 32,
    "Refused": 31,
    "Cancelled": 33,
    "Cancelling": 33,
    "Waiting": 36,
    "Compensating": 33,
    "Suspended": 35,
    "ok": 32,
    "warn": 33,
    "fail": 31,
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Form(StrEnum):
    """How a list or a run is printed."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"
    name = "name"


def say(text: str) -> None:
    """Print a line of the answer."""
    write(text + "\n")


def write(text: str) -> None:
    """Write to standard output at once; what its encoding cannot show is escaped."""
    _write(sys.stdout, text)


def tell(text: str) -> None:
    """Print a line about the answer: on standard error, so that pipes carry the answer only."""
    _write(sys.stderr, text + "\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether somebody looks at a screen that can move its cursor."""
    return (stream or sys.stdout).isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def show_runs(runs: list[dict[str, Any]], form: str) -> None:
    """Print runs as ``table``, ``wide``, ``json``, ``yaml`` or ``name``."""
    show_items(runs, form, columns(form), lambda run: row(run, form), name="id")


def show_items(
    items: list[dict[str, Any]],
    form: str,
    headings: Sequence[str],
    row_of: Callable[[dict[str, Any]], list[str]],
    *,
    name: str = "name",
) -> None:
    """Print a list as ``table``, ``wide``, ``json``, ``yaml`` or ``name``.

    Args:
        items: What the API answered.
        form: In which form.
        headings: Of a table.
        row_of: Makes a line of a table.
        name: The field by which other commands know an item.
    """
    if form in (Form.json, Form.yaml):
        show_data(items, form)
    elif form == Form.name:
        write("".join(f"{item[name]}\n" for item in items))
    else:
        write(table(headings, [row_of(item) for item in items]))


def columns(form: str) -> list[str]:
    """Return the headings of a list."""
    wide = ["NAME", "VERSION", "POD", "DURATION", "PARENT", "TAGS"] if form == Form.wide else []
    return ["ID", "TASK", "STATE", "ATTEMPT", "REASON", "AGE", *wide]


def row(run: dict[str, Any], form: str) -> list[str]:
    """Return one line of a list."""
    cells = [run["id"], run["task"], run["state"], str(run.get("attempt") or 0), run.get("reason") or "", age(run)]
    if form == Form.wide:
        tags = ",".join(run.get("tags") or ())
        cells += [run.get("name") or "", str(run.get("version") or ""), run.get("podName") or ""]
        cells += [run.get("duration") or "", run.get("parentId") or "", tags]
    return cells


def show_tree(nodes: list[dict[str, Any]]) -> None:
    """Print a run and what it has led to, each under the one that has started it."""
    below: dict[str | None, list[dict[str, Any]]] = {}
    for node in nodes[1:]:
        below.setdefault(node["parentId"], []).append(node)
    rows: list[list[str]] = []
    stack = [(nodes[0], "", "")]
    while stack:
        node, before, under = stack.pop()
        text = f"{before}{node['task']}{' (detached)' if node['detached'] else ''}"
        times = {"startedAt": node["startedAt"], "finishedAt": node["finishedAt"]}
        rows.append(
            [text, node["id"], node["state"], str(node["attempt"]), node["reason"] or "", took(times), age(node)]
        )
        children = below.get(node["id"], [])
        for at in range(len(children) - 1, -1, -1):  # the first comes off the stack first
            last = at == len(children) - 1
            stack.append((children[at], f"{under}{'└─' if last else '├─'} ", f"{under}{'   ' if last else '│  '}"))
    write(table(["TASK", "ID", "STATE", "ATTEMPT", "REASON", "TOOK", "AGE"], rows))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in columns as wide as their widest cell. Nothing is cut: pipes and files have no width."""
    # A task chooses its error messages: in a table they must neither break lines nor move the cursor.
    cells = [[_CONTROL.sub(" ", cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [headings, *cells]) for at in range(len(headings))]
    colours = is_terminal() and not os.environ.get("NO_COLOR")
    lines = [_line(headings, widths, "1" if colours else "")]
    lines += [_line(line, widths, "", coloured=colours) for line in cells]
    return "".join(lines)


def plain(text: str) -> str:
    """Return a text whose lines are its own, and which moves no cursor: users chose what stands in it."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", text)


def _line(cells: Sequence[str], widths: Sequence[int], style: str, *, coloured: bool = False) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    padded[-1] = cells[-1]
    if coloured:
        padded = [
            f"\x1b[{_COLOURS[cell]}m{text}\x1b[0m" if cell in _COLOURS else text
            for cell, text in zip(cells, padded, strict=True)
        ]
    text = "  ".join(padded).rstrip()
    return f"\x1b[{style}m{text}\x1b[0m\n" if style else text + "\n"


def show_data(value: Any, form: str) -> None:
    """Print a value as JSON or YAML."""
    if form == Form.json:
        say(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml

    say(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())


class Details(NamedTuple):
    """What is shown of a run besides the run itself."""

    steps: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    events: list[dict[str, Any]]


def show_run(run: dict[str, Any], details: Details) -> None:
    """Print one run: what it is, why it stands where it stands, its steps with their times, what happened."""
    write(describe(run, details))


def describe(run: dict[str, Any], details: Details) -> str:
    """Return what :func:`show_run` prints."""
    parts = []
    for title, key in (
        ("Run", "id"),
        ("Name", "name"),
        ("Task", "task"),
        ("Parent", "parentId"),
        ("State", "state"),
        ("Reason", "reason"),
        ("Message", "message"),
        ("Attempt", "attempt"),
        ("Pod", "podName"),
        ("Duration", "duration"),
    ):
        if run.get(key) is not None:
            parts.append(f"{title + ':':<10}{run[key]}\n")
    if run.get("tags"):
        parts.append(f"{'Tags:':<10}{', '.join(run['tags'])}\n")
    if run.get("error"):
        parts.append(f"{'Error:':<10}{run['error']['type']}: {run['error']['message']}\n")
    start = _time(run["createdAt"])  # from when the user asked: what it waited for counts too
    if details.steps:
        headings = ["STEP", "STATE", "ATTEMPT", "START", "TOOK", "RESULT"]
        parts += ["\n", table(headings, [_step(step, start) for step in details.steps])]
    if len(details.attempts) > 1 or any(attempt["error"] for attempt in details.attempts):
        headings = ["ATTEMPT", "ENDED", "START", "TOOK", "POD", "NODE", "WHY"]
        parts += ["\n", table(headings, [_attempt(attempt, start) for attempt in details.attempts])]
    if details.events:
        headings = ["AT", "EVENT", "ATTEMPT", "REASON", "MESSAGE"]
        parts += ["\n", table(headings, [_event(event, start) for event in details.events])]
    return "".join(parts)


def _attempt(attempt: dict[str, Any], start: datetime | None) -> list[str]:
    pod, error = attempt["pod"] or {}, attempt["error"]
    why = f"{error['type']}: {error['message']}".split("\n", 1)[0][:200] if error else ""
    times = {"startedAt": attempt["startedAt"], "finishedAt": attempt["endedAt"]}
    ended = attempt["outcome"] or "open"
    begun = _offset(_time(attempt["startedAt"]), start)
    return [str(attempt["number"]), ended, begun, took(times), pod.get("name") or "", pod.get("node") or "", why]


def _event(event: dict[str, Any], start: datetime | None) -> list[str]:
    at = _offset(_time(event["at"]), start)
    attempt = str(event.get("attempt") or "")
    return [at, event["type"], attempt, event.get("reason") or "", event.get("message") or ""]


def _step(step: dict[str, Any], start: datetime | None) -> list[str]:
    began = _time(step["startedAt"])
    return [
        step["key"],
        step["state"] + tries(step) + (", protected" if step.get("protected") else ""),
        str(step["attempt"]),
        _offset(began, start),
        took(step),
        outcome(step)[:60],
    ]


def tries(step: dict[str, Any]) -> str:
    """Return words for how often a step was tried, if that was more than once."""
    count = step.get("tries", 1)
    if count == 1:
        return ""
    return f", try {count}" if step["state"] == "running" else f" after {count} tries"


def took(step: dict[str, Any]) -> str:
    """Return how long a step or attempt took; nothing while it runs."""
    began, ended = _time(step["startedAt"]), _time(step.get("finishedAt"))
    return format_duration(ended - began) if began and ended else ""


def outcome(step: dict[str, Any]) -> str:
    """Return a step's result or error on one line."""
    if step.get("resultRef"):
        return f"{step['resultRef']['size']} bytes, sha256 {step['resultRef']['sha256'][:12]}…"
    if step.get("error"):
        return f"{step['error']['type']}: {step['error']['message']}"
    return json.dumps(step["result"], ensure_ascii=False) if "result" in step else ""


def _offset(at: datetime | None, start: datetime | None) -> str:
    return "" if at is None or start is None else f"+{format_duration(max(at - start, timedelta(0)))}"


def age(run: dict[str, Any]) -> str:
    """Return how long ago something was created."""
    created = _time(run["createdAt"])
    return format_duration(datetime.now(UTC) - created) if created else ""


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
