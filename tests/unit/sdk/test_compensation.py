"""What a step declares to be undone with, and attempts that undo it, on a transport in memory."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.support.history import History
from windlass import PermanentError, Retry, RetryAt, ValueTooLargeError, compensation, current_run, protocol, step, task
from windlass.errors import AttemptClosedError
from windlass.execution import Finished

EFFECTS: list[Any] = []
FAILS: dict[str, BaseException] = {}


@pytest.fixture(autouse=True)
def _nothing_happened() -> None:
    EFFECTS.clear()
    FAILS.clear()


@dataclass
class Receipt:
    id: str
    amount: int


def refund(result: Receipt, order: int) -> None:
    if "refund" in FAILS:
        raise FAILS["refund"]
    EFFECTS.append(("refund", result.id, result.amount, order, current_run().compensating))


async def unship(order: int) -> object:
    await asyncio.sleep(0)
    EFFECTS.append(("unship", order))
    return object()  # no JSON: what it returns is nobody's business


@step
def unreserve(result: str, note: str = "none") -> None:
    EFFECTS.append(("unreserve", result, note))


@step(compensate=refund)
def charge(order: int, big: str = "") -> Receipt:
    EFFECTS.append(("charge", order, len(big)))
    return Receipt(f"ch-{order}", 7)


@step(compensate=unship)
async def ship(order: int) -> None:
    EFFECTS.append(("ship", order))


@step(compensate=unreserve)
def reserve() -> str:
    EFFECTS.append(("reserve",))
    return "shelf 3"


@task
async def sells(order: int) -> None:
    charge(order, big="x" * 100_000)  # what the compensation does not want is not saved, and may be large
    reserve()
    await ship(order)
    raise ValueError("the customer is gone")


TRIED = Retry(max_attempts=3, min_delay="10ms", max_delay="10ms", jitter="none")


def give_up(error: Exception, order: int) -> None:
    EFFECTS.append(("by hand", str(error), order))


@step(retry=TRIED, retry_if=lambda error: isinstance(error, ConnectionError))
def unbook(order: int) -> None:
    EFFECTS.append(("unbook", order))
    raise FAILS["unbook"]


@step(retry=TRIED, on_error=give_up, timeout="10s")
async def unpack(order: int) -> None:
    EFFECTS.append(("unpack", order))
    raise ConnectionError("no hands")


@step(compensate=unbook)
def book(order: int) -> None: ...


@step(compensate=unpack)
def pack(order: int) -> None: ...


@task
async def books(order: int) -> None:
    book(order)
    pack(order)
    raise ValueError("the customer is gone")


def failed(finished: Finished) -> protocol.Failure:
    assert finished.fail is not None
    return finished.fail.failure


def test_finished_steps_are_undone_last_first_with_their_results_and_arguments() -> None:
    history = History()
    history.failure(sells, 7)
    EFFECTS.clear()
    assert history.undo(sells).complete is not None
    assert EFFECTS == [("unship", 7), ("unreserve", "shelf 3", "none"), ("refund", "ch-7", 7, 7, True)]
    undone = {key: s.name for key, s in history.steps.items() if key.startswith("compensate/")}
    assert undone == {
        "compensate/ship": "compensate ship",
        "compensate/reserve": "compensate reserve",
        "compensate/charge": "compensate charge",
    }


def test_only_what_the_compensation_wants_is_saved_and_nothing_for_other_steps() -> None:
    history = History()
    history.failure(sells, 7)
    saved = msgspec.json.decode(history.steps["charge"].compensation)
    assert saved == {"module": __name__, "step": "charge", "arguments": {"order": 7}}
    assert b"compensation" not in msgspec.json.encode(protocol.Step(key="k", name="k", args_hash="a", state="running"))


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_of_what_is_left_are_fetched_until_nothing_is(page: int) -> None:
    history = History()
    history.failure(sells, 7)
    EFFECTS.clear()
    assert history.undo(sells, page=page).complete is not None
    assert [effect[0] for effect in EFFECTS] == ["unship", "unreserve", "refund"]


def test_a_compensation_that_fails_ends_the_attempt_and_the_next_one_goes_on_there() -> None:
    history = History()
    history.failure(sells, 7)
    EFFECTS.clear()
    FAILS["refund"] = ConnectionError("the bank is down")
    failure = failed(history.undo(sells))
    assert (failure.type, failure.failure_class) == ("ConnectionError", "user")
    assert (history.steps["compensate/charge"].state, EFFECTS[-1]) == ("failed", ("unreserve", "shelf 3", "none"))
    FAILS.clear()
    assert history.undo(sells, number=3).complete is not None
    assert [effect[0] for effect in EFFECTS] == ["unship", "unreserve", "refund"]


def test_a_compensation_may_choose_when_it_is_tried_again_or_that_it_is_not() -> None:
    history = History()
    history.failure(sells, 7)
    FAILS["refund"] = RetryAt("5m")
    later = history.undo(sells).fail
    assert later is not None
    assert later.retry_after_ms == 300_000
    FAILS["refund"] = PermanentError("the account is closed")
    assert failed(history.undo(sells)).failure_class == "permanent"


def test_a_compensation_that_is_a_step_is_tried_as_its_own_options_say() -> None:
    history = History()
    history.failure(books, 7)
    FAILS["unbook"] = ConnectionError("down")
    assert failed(history.undo(books)).message == "down"
    assert EFFECTS == [("unpack", 7)] * 3 + [("by hand", "no hands", 7)] + [("unbook", 7)] * 3
    assert history.steps["compensate/pack"].state == "succeeded"
    assert history.steps["compensate/book"].tries == 3
    EFFECTS.clear()
    FAILS["unbook"] = ValueError("no such booking")
    assert failed(history.undo(books, number=3)).message == "no such booking"
    assert EFFECTS == [("unbook", 7)], "retry_if holds, and each attempt has tries of its own"


def test_a_result_that_is_a_blob_is_fetched_for_its_compensation() -> None:
    history = History()
    history.failure(large_receipt_task)
    assert history.steps["large"].result_ref is not None
    assert history.undo(large_receipt_task).complete is not None
    assert EFFECTS == [("forget", 100_000)]


def forget(result: str) -> None:
    EFFECTS.append(("forget", len(result)))


@step(compensate=forget)
def large() -> str:
    return "x" * 100_000


@task
def large_receipt_task() -> None:
    large()
    raise ValueError


def test_code_that_has_no_such_step_any_more_is_named_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    history.failure(sells, 7)
    monkeypatch.delitem(compensation._declared, (__name__, "reserve"))
    failure = failed(history.undo(sells))
    assert (failure.type, failure.failure_class) == ("CompensationError", "permanent")
    assert f"Step 'reserve' of module {__name__!r}" in failure.message
    assert history.steps["compensate/ship"].state == "succeeded"


def test_code_that_wants_more_than_was_saved_is_told_what_is_missing() -> None:
    history = History()
    history.failure(sells, 7)
    kept = history.steps["charge"]
    kept.compensation = msgspec.Raw(json.dumps({"module": __name__, "step": "charge", "arguments": {}}).encode())
    assert "refund() wants 'order', which step 'charge' did not save" in failed(history.undo(sells)).message


def test_a_result_that_does_not_fit_its_annotation_any_more_is_not_tried_again() -> None:
    history = History()
    history.failure(sells, 7)
    history.steps["charge"].result = msgspec.Raw(b'{"id":"ch-7"}')
    failure = failed(history.undo(sells))
    assert failure.failure_class == "permanent"
    assert "what step 'charge' saved as 'result'.amount" in failure.message


def test_arguments_that_no_row_keeps_stop_the_step_before_it_does_anything() -> None:
    history = History()
    failure = history.failure(keeps_document)
    assert (failure.failure_class, failure.type) == ("permanent", ValueTooLargeError.__name__)
    assert "Pass an id instead of the whole value" in failure.message
    assert "'keep' saves document for its compensation 'drop'" in failure.message
    assert EFFECTS == []


def drop(document: str) -> None:
    raise AssertionError(document)


@step(compensate=drop)
def keep(document: str) -> None:
    EFFECTS.append(("kept", document))


@task
def keeps_document() -> None:
    keep("x" * 70_000)


def a_step(order: int, *items: int, **rest: int) -> None:
    raise AssertionError((order, items, rest))


def result_step(result: int) -> None:
    raise AssertionError(result)


@pytest.mark.parametrize(
    ("function", "compensate", "says"),
    [
        (a_step, 7, "wants a function or a step, not int"),
        (a_step, sells, "wants a function or a step, not Task"),
        (a_step, lambda amount: amount, "takes 'amount', which nobody gives it.*result, order"),
        (a_step, lambda items: items, "takes 'items', which nobody gives it"),
        (a_step, lambda *order: order, r"cannot take '\*order'"),
        (a_step, lambda order, /: order, "each of its parameters is given by its name"),
        (result_step, lambda result: result, "'result', which is also a parameter of the step"),
    ],
)
def test_a_compensation_that_can_never_be_called_is_refused_where_it_is_written(
    function: Any, compensate: Any, says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        step(name="refused", compensate=compensate)(function)


def test_a_step_that_another_process_cannot_find_is_refused() -> None:
    def inner(order: int) -> None:
        raise AssertionError(order)

    with pytest.raises(TypeError, match=r"defined inside 'test_a_step_that_another_process.*top level of its module"):
        step(compensate=forget_nothing)(inner)


def forget_nothing() -> None:
    raise AssertionError


def test_two_steps_of_one_name_in_a_module_are_refused() -> None:
    with pytest.raises(TypeError, match=r'two steps named .charge..*@step\(name="…"\)'):
        step(name="charge", compensate=forget_nothing)(a_step)


def test_a_module_that_is_loaded_again_declares_its_steps_again() -> None:
    again = step(compensate=refund)(charge.function)
    assert compensation.find(compensation.Saved(__name__, "charge", {})) is again.compensation


def test_outside_a_run_a_step_with_a_compensation_is_its_function() -> None:
    assert charge(3) == Receipt("ch-3", 7)


class Dying(History):
    """A process that dies at one of its writes: before the ledger has it, or after."""

    def __init__(self, steps: dict[str, protocol.Step], at: int, *, stored: bool) -> None:
        super().__init__()
        self.steps = dict(steps)
        self.left = at
        self.stored = stored

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        self.left -= 1
        if self.left == 0:
            if self.stored:
                super().save_steps(steps)
            raise AttemptClosedError
        super().save_steps(steps)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("stored", [True, False])
def test_a_death_at_any_checkpoint_repeats_at_most_the_compensation_that_had_none(at: int, *, stored: bool) -> None:
    history = History()
    history.failure(sells, 7)
    EFFECTS.clear()
    dying = Dying(history.steps, at, stored=stored)
    with pytest.raises(AttemptClosedError):
        dying.undo(sells)
    assert dying.undo(sells, number=3).complete is not None
    expected = ["unship", "unreserve", "refund"]
    if not stored:
        expected.insert(at, expected[at - 1])  # its effect came before its checkpoint
    assert [effect[0] for effect in EFFECTS] == expected
