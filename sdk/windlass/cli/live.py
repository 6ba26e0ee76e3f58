"""A terminal's view of a run: the log runs through, and below it the steps stay in sight."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from windlass.cli import output
from windlass.cli.views import run_text, trouble_text
from windlass.client import FINAL_STATES
from windlass.durations import format_duration
from windlass.errors import ApiError

_SHOWN: Final = 10
"""Steps in sight: the newest. `windlass runs get` lists them all."""
_MARKS: Final = {"succeeded": ("✓", "green"), "failed": ("✗", "red"), "running": ("•", "cyan"), "waiting": ("…", "dim")}
_STATES: Final = {"Succeeded": "green", "Failed": "red", "TimedOut": "red", "Cancelled": "yellow", "Expired": "yellow"}


class LiveView:
    """Redraws in place. Everything it draws fits the screen, so that the log above it stays whole."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._run: dict[str, Any] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._since: dict[str, float] = {}
        self._began = time.monotonic()
        self._trouble: ApiError | None = None
        self._spinner = Spinner("dots")
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=8)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw while the block runs; the last picture stays."""
        with self._live:
            yield

    def lines(self, items: list[dict[str, Any]]) -> None:
        """Let the lines run through, in the colours that the task gave them."""
        text = Text("\n").join(Text.from_ansi(line["text"]) for line in items)
        self._console.print(text, soft_wrap=True)

    def progress(self, run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        """Take over what is new; the next picture shows it."""
        self._run = run
        for step in steps:
            self._steps[step["key"]] = step
            self._since.setdefault(step["key"], time.monotonic())
        self._live.refresh()

    def trouble(self, error: ApiError | None) -> None:
        """Show it below the steps until it is over."""
        self._trouble = error

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = []
        steps = list(self._steps.values())
        shown = min(_SHOWN, max(1, self._console.height - 4))
        if len(steps) > shown:
            parts.append(Text(f"  … {len(steps) - shown} more steps above", style="dim"))
        if steps:
            parts.append(self._table(steps[-shown:]))
        parts.append(self._state())
        if self._trouble:
            parts.append(Text(trouble_text(self._trouble), style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _table(self, steps: list[dict[str, Any]]) -> Table:
        grid = Table.grid(padding=(0, 1))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for step in steps:
            mark, colour = _MARKS.get(step["state"], ("?", ""))
            running = step["state"] in ("running", "waiting")
            passed = format_duration_of(time.monotonic() - self._since[step["key"]]) if running else output.took(step)
            said = output.outcome(step)[:200]
            grid.add_row(
                Text(f"  {mark}", style=colour),
                Text(step["key"] + output.tries(step)),
                Text(passed, style="dim"),
                Text(said),
            )
        return grid

    def _state(self) -> RenderableType:
        run = self._run
        if not run:
            return self._spinner
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(run_text(run), style=_STATES.get(run["state"], "bold"))
        passed = run.get("duration") or format_duration_of(time.monotonic() - self._began)
        line.append(f"  {run['task']} {run['id']}  {passed}", style="dim")
        if run["state"] in FINAL_STATES:
            return line
        self._spinner.update(text=line)
        return self._spinner


def format_duration_of(seconds: float) -> str:
    """Return seconds as people read them while they pass: without fractions."""
    from datetime import timedelta

    return format_duration(timedelta(seconds=int(seconds)))
