"""The soak's windows: what belongs to the start, what to the end, and what a run costs in them."""

import pytest

from bench.soak import Look, Window, figures, window
from bench.soak_load import Done


def done(at: float, *, took: float = 0.1, real: bool = False) -> Done:
    return Done(at, took, 0.01, real)


def test_a_window_has_what_was_completed_in_it_and_nothing_else() -> None:
    runs = [done(9.9), *(done(10 + n / 10) for n in range(20)), done(12.0)]
    found = window(runs, Look(10.0, api=1.0, database=2.0), Look(12.0, api=1.2, database=2.1))
    assert [found.runs, found.api, found.database] == pytest.approx([10, 10, 5])


def test_real_runners_count_as_runs_but_not_for_the_percentile() -> None:
    # A runner's start takes a thousand times what the ledger takes: the percentile would be about Python's imports.
    found = window([done(1.0), done(2.0, took=5.0, real=True)], Look(0.0, 0.0, 0.0), Look(4.0, 0.0, 0.0))
    assert (found.runs, found.p99) == (0.5, 100.0)


def test_a_time_without_any_run_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no run was completed"):
        window([done(5.0)], Look(0.0, 0.0, 0.0), Look(4.0, 0.0, 0.0))


def test_the_goal_is_on_the_end_by_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = Window(100, 50, 4, 5), Window(85, 60, 4, 6)
    made = figures(first, last, {"queue_entry": {"n_dead_tup": 7}})
    assert (made[0].ratio, made[0].goal) == (0.85, "ratio>=0.9")
    assert made[-1].ours == 7
    assert "MISSED" in capsys.readouterr().out
