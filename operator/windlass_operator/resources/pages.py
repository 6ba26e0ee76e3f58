"""The parts of the documentation that are made from code: between markers, in pages that people write."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from windlass_operator import metrics
from windlass_operator.domain.run_state import as_mermaid
from windlass_operator.resources.reasons import Reason


def _reasons() -> str:
    rows = [f"| `{reason.value}` | {reason.meaning} | {reason.remedy} |" for reason in Reason]
    return "\n".join(["| reason | what has happened | what to do |", "|---|---|---|", *rows])


def _states() -> str:
    return f"```mermaid\n{as_mermaid()}```"


def _metrics() -> str:
    rows = [
        f"| `{found.name}` | {found.kind} | {', '.join(f'`{label}`' for label in found.labels)} | {found.help} |"
        for found in metrics.describe()
    ]
    return "\n".join(["| metric | kind | labels | what it says |", "|---|---|---|---|", *rows])


PARTS: Final[Mapping[Path, Callable[[], str]]] = {
    Path("docs/reference/metrics.md"): _metrics,
    Path("docs/reference/reasons.md"): _reasons,
    Path("docs/reference/state-machine.md"): _states,
}
"""Page, relative to the checkout, and what stands between its markers."""

_BETWEEN: Final = re.compile(r"(<!-- generated: .*? -->\n).*?(\n<!-- end -->)", re.DOTALL)


def differences(root: Path) -> list[str]:
    """Return the pages whose generated part is stale, or whose markers are gone."""
    problems = []
    for path, part in PARTS.items():
        text = (root / path).read_text("utf-8")
        if _BETWEEN.search(text) is None:
            problems.append(f"{path} has no markers")
        elif _renewed(text, part()) != text:
            problems.append(f"{path} is stale")
    return problems


def write(root: Path) -> None:
    """Renew the generated part of every page."""
    for path, part in PARTS.items():
        text = (root / path).read_text("utf-8")
        (root / path).write_text(_renewed(text, part()), "utf-8")


def _renewed(text: str, part: str) -> str:
    return _BETWEEN.sub(lambda found: f"{found[1]}{part}{found[2]}", text)
