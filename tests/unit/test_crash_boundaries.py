"""Which calls of a scenario are boundaries, and how they are named."""

from tests.crash.checks import Seen
from tests.crash.repetition import Boundary, boundaries, is_read
from tests.crash.scenarios import ALL
from windlass.failpoints import MODES


def passed(call: str, times: int) -> list[str]:
    return [f"{call}|{n}" for n in range(1, times + 1)]


def test_each_call_is_a_boundary_in_each_mode() -> None:
    found = boundaries(ALL[0], passed("child|http POST /steps", 2), MODES)
    assert [str(boundary) for boundary in found] == [
        f"steps/child|http POST /steps|{n}/{mode}" for n in (1, 2) for mode in ("before", "after", "lost")
    ]


def test_of_a_read_that_a_loop_repeats_the_first_two_are_boundaries() -> None:
    assert len(boundaries(ALL[0], passed("operator|ledger backlog", 31), MODES)) == 2 * 3
    assert len(boundaries(ALL[0], passed("api|ledger add_event", 7), MODES)) == 7 * 3


def test_statements_that_write_or_lock_are_no_reads() -> None:
    reads = ("ledger backlog", "ledger due", "kubernetes get tasks", "kubernetes list runs")
    others = ("ledger claim_runs", "ledger lock_attempts", "ledger save_steps", "ledger commit of close_attempts")
    assert [is_read(call) for call in reads] == [True] * len(reads)
    assert [is_read(call) for call in (*others, "kubernetes create pods", "s3 GetObject")] == [False] * 6


def test_a_boundary_is_repeated_by_what_was_printed() -> None:
    boundary = Boundary("steps", "child|http PUT /blobs/…|1", "lost")
    assert Boundary.parse(str(boundary)) == boundary
    assert boundary.role == "child"


def test_a_second_run_and_a_missing_effect_are_differences() -> None:
    run = ("double", "Succeeded", None, "14", None, 0, "effect_of_double succeeded")
    clean = Seen((run,), ("double",))
    assert clean.difference(clean, failures_too=True) == []
    assert len(clean.difference(Seen((run, run), ("double", "double")), failures_too=True)) == 2
    charged = Seen(((*run[:5], 1, run[6]),), ("double",))
    assert clean.difference(charged, failures_too=False) == []
    assert len(clean.difference(charged, failures_too=True)) == 1
