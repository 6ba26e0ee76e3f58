"""``windlass runs tree``: each run under the one whose code has started it."""

from typing import Any

import pytest

from windlass.cli import output


def _node(name: str, parent: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"id-{name}", "task": name, "name": None, "parentId": parent and f"id-{parent}", "depth": 0,
        "detached": False, "state": "Running", "reason": None, "message": None, "attempt": 1,
        "createdAt": "2030-01-01T08:00:00.000000Z", "startedAt": None, "finishedAt": None, **more,
    }  # fmt: skip


def test_a_tree_draws_each_run_under_its_parent_in_the_order_of_their_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = [
        _node("top", "someone", state="Waiting", reason="WaitingForRun"),
        _node("a", "top"),
        _node("b", "top", detached=True),
        _node("a1", "a", state="Failed"),
        _node("a2", "a"),
    ]
    output.show_tree(nodes)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("id-")[0].rstrip() for line in lines[1:]] == [
        "top",
        "├─ a",
        "│  ├─ a1",
        "│  └─ a2",
        "└─ b (detached)",
    ]
    assert "WaitingForRun" in lines[1]
    assert "Failed" in lines[3]
