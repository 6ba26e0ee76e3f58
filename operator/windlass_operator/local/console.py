"""What ``windlass dev`` prints: runs as they begin, wait and end, and what they print themselves."""

import asyncio
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from windlass.durations import format_duration
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.ledger import logs, runs
from windlass_operator.ledger.steps import decode_error
from windlass_operator.local.plane import LocalPlane

_LOOK: Final = 0.15
"""Seconds from one look at the runs that go on to the next."""
_PAGE: Final = 500
_REMEMBERED: Final = 2_000
"""Runs of which is known what was printed."""
_RESULT: Final = 200
_LAST_LINE: Final = 2**62
"""A number that no line of an attempt has."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_COLOURS: Final = (36, 35, 34, 33, 32, 96, 95, 94)


@dataclass
class _Shown:
    """What was printed of a run."""

    state: str = ""
    reason: str | None = None
    attempt: int = 0
    cursor: tuple[int, int] = (0, 0)


class Console:
    """Follows all runs of a plane.

    Args:
        plane: The plane.
        write: Prints a line.
    """

    def __init__(self, plane: LocalPlane, write: Callable[[str], None]) -> None:
        self._plane = plane
        self._write = write
        self._coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._shown: dict[UUID, _Shown] = {}
        self._changed: set[UUID] = set()
        self._news = asyncio.Event()
        self._since = datetime.now(UTC)
        plane.context.changes.watch(self._note)

    def _note(self, run_id: UUID) -> None:
        self._changed.add(run_id)
        self._news.set()

    async def follow(self) -> None:
        """Print until cancelled."""
        while True:
            if not any(shown.state == "Running" for shown in self._shown.values()):
                await self._news.wait()
            self._news.clear()
            try:
                await self._look()
            except LedgerUnavailableError:
                await asyncio.sleep(1)
            await asyncio.sleep(_LOOK)

    async def _look(self) -> None:
        running = {run_id for run_id, shown in self._shown.items() if shown.state == "Running"}
        asked, self._changed = self._changed | running, set()
        for row in reversed(await runs.get_many(self._plane.database, list(asked))):
            shown = self._shown.setdefault(row["id"], _Shown(cursor=self._first_line(row)))
            if row["finished_at"] is None:
                self._show_state(row, shown)
            await self._show_log(row, shown)
            self._show_state(row, shown)
        for run_id in list(self._shown)[:-_REMEMBERED]:
            del self._shown[run_id]

    def _first_line(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Return after which line to begin: what an earlier start has shown is not shown again."""
        if row["created_at"] >= self._since:
            return 0, 0
        return (row["attempts"] - 1 if row["state"] == "Running" else row["attempts"]), _LAST_LINE

    async def _show_log(self, row: Mapping[str, Any], shown: _Shown) -> None:
        while True:
            lines = await logs.list_of_run(self._plane.database, row["id"], after=shown.cursor, limit=_PAGE)
            for line in lines:
                shown.cursor = (line["attempt"], line["seq"])
                self._say(row, f"│ {_plain(line['text'])}")
            if len(lines) < _PAGE:
                return

    def _show_state(self, row: Mapping[str, Any], shown: _Shown) -> None:
        now = (row["state"], row["reason"], row["attempts"])
        if now == (shown.state, shown.reason, shown.attempt):
            return
        said = self._words(row, shown)
        shown.state, shown.reason, shown.attempt = now
        if said:
            self._say(row, said)

    def _words(self, row: Mapping[str, Any], shown: _Shown) -> str:
        state, reason = row["state"], row["reason"]
        why = f"{reason}: {_plain(row['message'] or '')}" if reason else ""
        if state == "Running":
            if shown.state == "Running" and shown.attempt == row["attempts"]:
                return ""
            if row["attempts"] > 1:
                return f"▶ goes on, attempt {row['attempts']}"
            return f"▶ begins, version {row['version']}  {self._link(row)}"
        if state == "Succeeded":
            text = _plain(row["result"] or "a large value")
            text = text if len(text) <= _RESULT else text[:_RESULT] + "…"
            return f"✔ Succeeded after {_took(row)}: {text}  {self._link(row)}"
        if row["finished_at"] is not None:
            failure = decode_error(row["error"])
            error = f"{failure.type}: {_plain(failure.message)}" if failure else why
            return f"✘ {state} after {_took(row)}: {error}  {self._link(row)}"
        return f"… {state}{f', {why}' if why else ''}" if state != "Queued" or reason else ""

    def _link(self, row: Mapping[str, Any]) -> str:
        return f"{self._plane.url}/api/v1/namespaces/{row['namespace']}/runs/{row['id']}"

    def _say(self, row: Mapping[str, Any], text: str) -> None:
        name = row["resource_name"] or f"{row['task']}-{str(row['id'])[-6:]}"
        if self._coloured:
            name = f"\x1b[{_COLOURS[row['id'].int % len(_COLOURS)]}m{name}\x1b[0m"
        self._write(f"{datetime.now().astimezone():%H:%M:%S} {name} {text}")


def _took(row: Mapping[str, Any]) -> str:
    return format_duration(row["finished_at"] - (row["started_at"] or row["created_at"]))


def _plain(text: str) -> str:
    """Return a text that moves no cursor and has one line: users choose what stands in it."""
    return _CONTROL.sub(" ", text)
