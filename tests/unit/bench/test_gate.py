"""The regression gate: what it calls slower, when it wants more rounds, and what it tells."""

import json
from pathlib import Path

import pytest

from bench import gate
from bench.gate_rules import FEWEST, Allowed, Verdict, final, interval, report, verdict
from bench.probe import Round, Used

ALLOWED = Allowed(ratio=2.0, tolerance=0.25)
"""The limit is 2.5."""


def test_nothing_is_said_of_a_few_rounds() -> None:
    assert verdict([9.0] * (FEWEST - 1), ALLOWED) is Verdict.UNCLEAR
    assert verdict([9.0] * FEWEST, ALLOWED) is Verdict.WORSE
    assert verdict([2.0] * FEWEST, ALLOWED) is Verdict.HELD


def test_a_disturbed_round_changes_nothing() -> None:
    assert verdict([2.0, 2.1, 2.0, 2.1, 2.0, 2.1, 2.0, 500.0], ALLOWED) is Verdict.HELD
    assert verdict([3.0, 3.1, 3.0, 3.1, 3.0, 3.1, 3.0, 0.01], ALLOWED) is Verdict.WORSE


def test_rounds_on_both_sides_of_the_limit_ask_for_more() -> None:
    assert verdict([2.0, 3.0] * 6, ALLOWED) is Verdict.UNCLEAR


def test_more_rounds_make_it_clear_without_leaving_any_out() -> None:
    few = [2.4, 2.4, 2.6, 2.4, 2.4, 2.4]
    assert verdict(few, ALLOWED) is Verdict.UNCLEAR
    assert verdict(few * 4, ALLOWED) is Verdict.HELD


@pytest.mark.parametrize(
    ("ratios", "expected"), [([2.0, 3.0, 2.4] * 4, Verdict.HELD), ([2.0, 3.0, 2.6] * 4, Verdict.WORSE)]
)
def test_what_stays_unclear_is_decided_by_the_median(ratios: list[float], expected: Verdict) -> None:
    assert verdict(ratios, ALLOWED) is Verdict.UNCLEAR
    assert final(ratios, ALLOWED) is expected


def test_what_is_exactly_allowed_is_allowed() -> None:
    assert verdict([2.5] * 8, ALLOWED) is Verdict.HELD


@pytest.mark.parametrize(("count", "skipped"), [(1, 0), (2, 0), (5, 0), (6, 0), (8, 1), (12, 2), (20, 5)])
def test_the_interval_leaves_out_as_many_on_each_side_as_chance_allows(count: int, skipped: int) -> None:
    values = [float(n) for n in range(count)]
    assert interval(values) == (skipped, count - 1 - skipped)


def test_a_figure_that_is_worse_is_named_with_all_that_is_needed() -> None:
    lines, complaints = report({"time of a step": [3.0] * 8}, {"time of a step": ALLOWED})
    assert lines[0].split()[0] == "WORSE"
    about = "3 (3 to 3, 8 rounds); written down 2"
    assert complaints == [f"time of a step is +50% against what is written down, and +25% is allowed: {about}."]


def test_a_figure_that_got_better_is_no_complaint() -> None:
    assert report({"a": [0.5] * 8}, {"a": ALLOWED})[1] == []


def test_a_figure_cannot_be_forgotten_on_either_side() -> None:
    _, complaints = report({"new": [1.0] * 8}, {"gone": ALLOWED})
    assert ["gone: the measurement" in complaints[0], "new: bench/baseline.json" in complaints[1]] == [True, True]


def test_figures_have_no_unit() -> None:
    fast = Round(1, 3, 0.2, Used(0, 0, 0, 500), Used(0, 0.002, 0.001, 50), 200, 100, 0.5, 1, 0.5, 25)
    slow = Round(2, 6, 0.4, Used(0, 0, 0, 500), Used(0, 0.004, 0.002, 50), 400, 200, 1.0, 2, 1.0, 25)
    assert gate.ratios(fast) == gate.ratios(slow)
    assert gate.ratios(fast)["CPU of the API for a step"] == 2


def test_what_is_written_down_is_what_is_measured() -> None:
    one = Round(1, 1, 1, Used(1, 1, 1, 1), Used(1, 1, 1, 1), 1, 1, 1, 1, 1, 1)
    assert set(gate.written()) == set(gate.ratios(one))


def test_a_baseline_is_read_as_it_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    monkeypatch.setattr(gate, "_BASELINE", file)
    gate.write({"time of a step": [1.0, 3.0, 2.0], "log of a step": [4.0]})
    assert gate.written() == {"time of a step": Allowed(2.0, 0.6), "log of a step": Allowed(4.0, 0.15)}
    assert json.loads(file.read_text())["log of a step"] == {"ratio": 4.0, "tolerance": 0.15}
