"""Figures of benches: pairs, spreads, goals and the file that others read."""

import json
from pathlib import Path

import pytest

from bench import report
from bench.report import figure, single


def test_a_ratio_is_the_median_of_the_pairs_and_not_a_ratio_of_medians() -> None:
    # In the second pair the machine was busy: it slowed both, and must not count for or against either.
    found = figure("step", [1.0, 10.0, 2.0], "ms", peer=("theirs", [2.0, 20.0, 8.0]))
    assert (found.ours, found.peer, found.ratio) == (2.0, {"name": "theirs", "value": 8.0}, 0.5)


def test_series_of_different_lengths_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        figure("step", [1.0, 2.0], "ms", peer=("theirs", [1.0]))


def test_the_spread_of_the_ratios_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figure("step", [1.0, 3.0, 2.0], "ms", peer=("theirs", [4.0, 4.0, 4.0]), goal="ratio<=0.5")
    said = capsys.readouterr().out
    assert "paired ratio 0.50 (0.25 to 0.75)" in said
    assert "goal ratio<=0.5: met" in said


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [("<=2", "met"), ("<=1.9", "MISSED"), (">=2", "met"), (">=2.1", "MISSED"), ("ratio<=0.5", "met"), ("", None)],
)
def test_a_goal_is_on_our_figure_or_on_the_ratio(
    goal: str, verdict: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    single("step", 2.0, "ms", peer=("theirs", 4.0), goal=goal)
    said = capsys.readouterr().out
    assert ("goal" not in said) if verdict is None else said.strip().endswith(f"goal {goal}: {verdict}")


def test_a_goal_on_a_ratio_is_missed_where_there_is_no_peer(capsys: pytest.CaptureFixture[str]) -> None:
    single("step", 0.1, "ms", goal="ratio<=0.5")
    assert "MISSED" in capsys.readouterr().out


def test_what_is_written_has_the_fields_that_others_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "_FILE", tmp_path / ".bench" / "latest.json")
    report.write([figure("step", [1.0], "ms", peer=("theirs", [2.0]), goal="ratio<=0.5"), single("start", 3.0, "s")])
    assert json.loads((tmp_path / ".bench" / "latest.json").read_text()) == [
        {
            "name": "step",
            "ours": 1.0,
            "unit": "ms",
            "peer": {"name": "theirs", "value": 2.0},
            "ratio": 0.5,
            "goal": "ratio<=0.5",
        },
        {"name": "start", "ours": 3.0, "unit": "s", "peer": None, "ratio": None, "goal": ""},
    ]
