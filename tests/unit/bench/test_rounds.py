"""Interleaved rounds: fair turns, and no time counts that did not do the work."""

from collections import Counter

import pytest

from bench.peers.rounds import LostStepsError, Round, Series, order

NAMES = ("ours", "DBOS", "Restate")


def test_everybody_takes_part_in_every_round() -> None:
    assert all(sorted(order(NAMES, n)) == sorted(NAMES) for n in range(20))


def test_everybody_is_first_and_last_equally_often() -> None:
    rounds = [order(NAMES, n) for n in range(2 * len(NAMES))]
    assert set(Counter(one[0] for one in rounds).values()) == {2}
    assert set(Counter(one[-1] for one in rounds).values()) == {2}


def test_nobody_always_follows_the_same_contestant() -> None:
    followed = Counter(pair for n in range(6) for pair in zip(order(NAMES, n), order(NAMES, n)[1:], strict=False))
    assert set(followed.values()) == {2}
    assert len(followed) == 6


@pytest.mark.parametrize("done", [Round([1.0], 2, 2), Round([1.0, 1.0], 1, 2), Round([1.0, 1.0], 2, 1)])
def test_a_round_with_a_lost_step_is_refused(done: Round) -> None:
    with pytest.raises(LostStepsError, match="ours: of 2 steps"):
        done.check("ours", 2)


def test_a_round_in_which_every_step_ran_once_and_was_saved_counts() -> None:
    Round([1.0, 1.0], 2, 2).check("ours", 2)


def test_the_first_steps_of_every_round_are_left_out() -> None:
    series = Series(warm_up=1)
    series.add([100.0, 1.0, 2.0, 3.0])
    series.add([100.0, 5.0])
    assert series.medians == [2.0, 5.0]
    assert series.times == [1.0, 2.0, 3.0, 5.0]


def test_a_quantile_is_over_the_steps_of_all_rounds() -> None:
    series = Series(warm_up=0)
    series.add([float(n) for n in range(100, 0, -1)])
    assert (series.quantile(0.5), series.quantile(0.99), series.quantile(1.0)) == (51.0, 100.0, 100.0)
