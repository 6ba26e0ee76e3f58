"""Warm rows: what counts as a run, what a burst says, and what is said where ours cannot be measured."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from bench.peers.bursts import Cost, Ended, LostRunsError, check, quantile, rate, waits
from bench.peers.effects import Effects, read_effects
from bench.peers.load import fulfil
from bench.peers.processes import tree_cpu
from bench.peers.warm_figures import Costs, Found, figures, table

MS = 1_000_000


def runs(count: int) -> list[Ended]:
    return [Ended(f"b-{n}", triggered=n * MS, readable=(n + 10) * MS) for n in range(count)]


def test_a_burst_in_which_everything_happened_once_counts() -> None:
    check("ours", runs(2), 2, 0, Counter({"b-0": 1, "b-1": 1}))
    check("ours", runs(1), 1, 2, Counter({"b-0#0": 1, "b-0#1": 1}))


@pytest.mark.parametrize(
    ("ended", "found"),
    [
        (1, {"b-0": 1}),
        (2, {"b-0": 1}),
        (2, {"b-0": 1, "b-1": 2}),
        (2, {"b-0": 1, "b-1": 1, "b-7": 1}),
    ],
    ids=["a run has no result", "a body did not run", "a body ran twice", "something else happened"],
)
def test_a_burst_in_which_something_was_lost_or_repeated_is_refused(ended: int, found: dict[str, int]) -> None:
    with pytest.raises(LostRunsError, match="ours: of 2 runs"):
        check("ours", runs(ended), 2, 0, Counter(found))


def test_a_step_that_is_missing_is_named() -> None:
    with pytest.raises(LostRunsError, match="such as b-0#1: 0 times"):
        check("ours", runs(1), 1, 2, Counter({"b-0#0": 1}))


def test_a_rate_counts_from_the_first_trigger_until_the_last_result_is_readable() -> None:
    assert rate(runs(11)) == pytest.approx(11 / 0.020)
    assert rate(runs(11), steps=5) == pytest.approx(55 / 0.020)


def test_a_wait_ends_with_the_first_line_and_not_with_the_result() -> None:
    assert waits(runs(1), {"b-0": 3 * MS}) == [3.0]


def test_costs_are_told_for_each_and_a_log_that_nobody_tells_of_is_no_zero() -> None:
    assert Cost(workers=1.0, database=0.5, client=0.1, wal=1000).each(100) == (10.0, 5.0, 1.0, 10.0)
    assert Cost(1.0, 0.0, 0.1, None).each(100)[3] is None


def test_a_quantile_of_one_value_is_that_value() -> None:
    assert (quantile([7.0], 0.5), quantile([7.0], 0.99)) == (7.0, 7.0)


async def test_no_more_runs_are_under_way_than_there_are_clients() -> None:
    under_way, most = 0, 0

    async def trigger(_task: str, key: str, _argument: int) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return key

    done = await fulfil(trigger, task="noop", prefix="b", count=50, at_once=4)
    assert (most, len(done), {key for key, _, _ in done}) == (4, 50, {f"b-{n}" for n in range(50)})


async def test_a_result_of_another_run_ends_the_bench() -> None:
    async def trigger(_task: str, _key: str, _argument: int) -> str:
        return "b-99"

    with pytest.raises(RuntimeError, match="the result of b-0 is 'b-99'"):
        await fulfil(trigger, task="noop", prefix="b", count=1, at_once=1)


def test_effects_of_several_writers_are_all_read(tmp_path: Path) -> None:
    file = tmp_path / "effects"
    for name in ("a", "b"):
        Effects(str(file)).note(name)
    (first, at), (second, later) = read_effects(file)
    assert (first, second) == ("a", "b")
    assert at <= later


def test_the_time_of_a_process_holds_that_of_its_children() -> None:
    assert tree_cpu([1]) >= 0
    assert tree_cpu([]) == 0


def found(rate_of_runs: float, first_line: float, *, steps: float | None = None) -> Found:
    costs: list[Costs] = [(1.0, 0.5, 0.2, 2000.0)]
    return Found(
        [first_line] * 4, [first_line] * 2, [rate_of_runs] * 2, [steps] * 2 if steps else [], costs, costs, 3.0
    )


def test_what_cannot_be_measured_is_said_and_has_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    made = figures({"Restate": found(800, 3.0)})
    assert {one.ours for one in made} == {None}
    assert {one.ratio for one in made} == {None}
    assert all(one.goal for one in made)
    assert "not measured (this tree's runners cannot do that); Restate" in capsys.readouterr().out
    assert table({"Restate": found(800, 3.0)})[2].count("not measured") == 10


def test_ours_stands_beside_each_peer_when_it_is_there() -> None:
    made = figures(
        {
            "ours, in-process": found(2400, 1.5, steps=3000),
            "Restate": found(800, 3.0, steps=1000),
            "procrastinate": found(500, 4.0),
        }
    )
    ratios = {
        (one.name, one.peer["name"].split()[0]): (one.ratio, one.goal)
        for one in made
        if one.peer and one.ours is not None
    }
    assert ratios["no-op runs/s end to end, 64 clients: ours, in-process", "Restate"] == (3.0, "ratio>=2")
    assert ratios["no-op runs/s end to end, 64 clients: ours, in-process", "procrastinate"] == (4.8, "ratio>=3")
    assert ratios["trigger → first user line, idle worker: ours, in-process", "Restate"] == (0.5, "ratio<=1.0")


def test_a_peer_without_steps_has_no_row_of_steps() -> None:
    line = table({"procrastinate": found(500, 4.0)})[-1]
    assert line.endswith("| - | - | - |")
    assert json.dumps(line).count("|") == 12
