"""What ``doctor --verify-ledger`` says, for people and for programs."""

from windlass_operator.ledger.invariants import Broken
from windlass_operator.services.invariants import CHECKS, WHOLE, Report
from windlass_operator.services.outside import OBJECT_CHECKS, OUTSIDE, POD_CHECKS, RUN_CHECKS
from windlass_operator.verify import as_data, as_lines


def _report() -> Report:
    """Return one of a process that cannot reach the store, in a cluster with a stray pod."""
    report = Report(runs=7)
    for checks in (WHOLE, CHECKS, RUN_CHECKS):
        report.add(checks, [])
    stray = [Broken("pods_known", None, f"Pod shop/{n} is not in the ledger.", "shop") for n in range(120)]
    report.add(POD_CHECKS, stray)
    report.skipped |= {check.name: "The object store does not answer." for check in OBJECT_CHECKS}
    return report


def test_people_see_a_line_for_each_rule_and_where_nobody_looked() -> None:
    lines = as_lines(_report(), 1.25)
    rules = [line for line in lines if not line.startswith(" ")]
    assert len(rules) == len((*CHECKS, *WHOLE, *OUTSIDE)) + 1
    (pods,) = (line for line in lines if "pods_known" in line)
    assert pods == "fail  I4  pods_known         120  Each pod of ours is known to the ledger."
    assert lines[lines.index(pods) + 1].strip() == "Pod shop/0 is not in the ledger."
    assert "and 100 more" in "\n".join(lines)
    (objects,) = (line for line in lines if "objects_there" in line)
    assert objects == "skip  I11 objects_there           not looked at: The object store does not answer."
    assert lines[-1] == "7 runs in 1.2 s: 120 violations, 2 checks not made."


def test_rules_are_in_the_order_of_their_numbers_and_none_is_left_out() -> None:
    told = as_data(_report(), 1)["checks"]
    numbers = [int(check["code"][1:]) for check in told]
    assert numbers == sorted(numbers)
    assert {check["check"] for check in told} == {check.name for check in (*CHECKS, *WHOLE, *OUTSIDE)}


def test_programs_see_no_number_where_nobody_looked_and_the_namespace_of_what_was_found() -> None:
    told = as_data(_report(), 1)
    of = {check["check"]: check for check in told["checks"]}
    assert (of["objects_there"]["violations"], of["pods_there"]["violations"]) == (None, 0)
    assert (of["objects_there"]["not_looked_at"], of["pods_there"]["not_looked_at"]) == (
        "The object store does not answer.",
        None,
    )
    assert (told["ok"], of["pods_known"]["violations"], len(told["violations"])) == (False, 120, 100)
    assert {found["namespace"] for found in told["violations"]} == {"shop"}


def test_a_terminal_shows_what_was_not_looked_at_in_its_own_colour() -> None:
    lines = as_lines(_report(), 1, coloured=True)
    assert {line[:5] for line in lines if line.startswith("\x1b")} == {"\x1b[32m", "\x1b[31m", "\x1b[33m"}
