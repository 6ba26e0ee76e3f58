"""``--watch``: looking again and again, and showing what has changed."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from windlass.cli import output
from windlass.cli.output import Form
from windlass.errors import ApiError

_EVERY: Final = 1.0


def pause(seconds: float) -> None:
    """Wait between two looks; tests put their own in its place."""
    time.sleep(seconds)


class Watch:
    """Shows runs as they change: redrawn in place on a terminal, as further lines anywhere else.

    Args:
        form: Of the output.
        patience: Seconds after which to stop, or None.
    """

    def __init__(self, form: Form, patience: float | None) -> None:
        self._form = form
        self._until = None if patience is None else time.monotonic() + patience
        self._seen: dict[str, dict[str, Any]] = {}
        self._headed = False

    def looks(self, ask: Callable[[], Any]) -> Iterator[Any]:
        """Yield answers, one each second. An API that does not answer for a while is waited for."""
        troubled = False
        while True:
            try:
                answer = ask()
            except ApiError as error:
                if error.status not in (0, 429, 500, 502, 503, 504) or error.code == "NotConfigured":
                    raise
                if not troubled:
                    output.tell(f"connection lost, trying again: {error.message}")
                troubled = True
            else:
                troubled = False
                yield answer
            if self._until is not None and time.monotonic() >= self._until:
                return
            pause(_EVERY)

    def changed(self, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those that are new or differ from the last look."""
        news = [run for run in runs if self._seen.get(run["id"]) != run]
        self._seen.update({run["id"]: run for run in news})
        return news

    def append(self, runs: list[dict[str, Any]]) -> None:
        """Print what changed, as kubectl does: a line, or a document, for each change."""
        # Oldest first: what a reader saw last is the newest.
        for run in reversed(self.changed(runs)):
            if self._form == Form.json:
                output.say(json.dumps(run, ensure_ascii=False))
            elif self._form == Form.yaml:
                output.say("---")
                output.show_data(run, self._form)
            elif self._form == Form.name:
                output.say(run["id"])
            else:
                self._append_row(run)

    def _append_row(self, run: dict[str, Any]) -> None:
        cells = output.row(run, self._form)
        if not self._headed:
            self._headed = True
            # Later rows may be wider than these; columns that never move would need the future.
            self._widths = [max(len(h), len(c), 10) for h, c in zip(output.columns(self._form), cells, strict=True)]
            self._put(output.columns(self._form))
        self._put(cells)

    def _put(self, cells: list[str]) -> None:
        padded = "  ".join(c.ljust(w) for c, w in zip(cells, self._widths, strict=True))
        output.say(padded.rstrip())


def on_screen(form: Form) -> bool:
    """Whether to redraw in place."""
    return form in (Form.table, Form.wide) and output.is_terminal(sys.stdout)


@contextmanager
def redrawn() -> Iterator[Callable[[str], None]]:
    """Give a function that replaces what it drew before."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def draw(text: str) -> None:
            drawn = Text.from_ansi(text.rstrip("\n"))
            drawn.no_wrap, drawn.overflow = True, "ellipsis"
            live.update(drawn, refresh=True)

        yield draw
