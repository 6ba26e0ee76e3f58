"""Plain lines about a run that is being followed, for pipes and logs, and the words that the live view shares."""

from typing import Any

from windlass.cli import output
from windlass.errors import ApiError


class PlainView:
    """Log lines on standard output, everything about them on standard error: a pipe carries the log alone."""

    def __init__(self) -> None:
        self._stood: tuple[Any, ...] = ()

    def lines(self, items: list[dict[str, Any]]) -> None:
        """Write the lines in one go."""
        output.write("".join(f"{line['text']}\n" for line in items))

    def progress(self, run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        """Write a line for each step that started or ended, and one when the run stands elsewhere."""
        for step in steps:
            output.tell(step_text(step))
        stands = (run["state"], run.get("reason"), run.get("attempt"))
        if stands != self._stood:
            self._stood = stands
            output.tell(run_text(run))

    def trouble(self, error: ApiError | None) -> None:
        """Write it down."""
        output.tell(trouble_text(error))


def step_text(step: dict[str, Any]) -> str:
    """Return one line about a step."""
    took = output.took(step)
    result = f": {output.outcome(step)[:200]}" if step.get("error") else ""
    return f"step {step['key']} {step['state']}{output.tries(step)}{f' in {took}' if took else ''}{result}"


def run_text(run: dict[str, Any]) -> str:
    """Return one line about where a run stands."""
    attempt = f" (attempt {run['attempt']})" if (run.get("attempt") or 0) > 1 else ""
    why = run.get("reason") or ""
    said = f": {run['message']}" if run.get("message") else ""
    return f"{run['state']}{attempt} {why}{said}".strip()


def trouble_text(error: ApiError | None) -> str:
    """Return one line about the connection."""
    return f"connection lost, trying again: {error.message}" if error else "connected again"
