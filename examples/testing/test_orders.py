"""Tests of the order task. Run them with pytest, after ``pip install 'windlass[dev]' pytest``."""

from datetime import timedelta

import pytest
import shop
from orders import Order, process_order

from windlass.testing import SILENCE, Environment, UnscriptedWaitError, crash_everywhere

ORDER = Order(id=7, amount=80)


@pytest.fixture(autouse=True)
def _world(windlass_env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "charge", windlass_env.effects.fake("charge", returns="receipt 1"))
    monkeypatch.setattr(shop, "mail", windlass_env.effects.fake("mail"))


def test_an_order_is_followed_up_a_month_after_its_delivery(windlass_env: Environment) -> None:
    began = windlass_env.now
    windlass_env.on_event("delivered", {"order": 7, "to": "Ada"})
    run = windlass_env.run(process_order, ORDER)
    assert run.result == "receipt 1, delivered to Ada"
    assert windlass_env.now - began == timedelta(days=30)
    assert [str(effect) for effect in windlass_env.effects.all()] == [
        "charge(7, 80.0)",
        'mail("How do you like order 7?")',
    ]


def test_a_large_order_needs_an_approval(windlass_env: Environment) -> None:
    windlass_env.on_approval(False, by="bob")
    assert windlass_env.run(process_order, Order(id=8, amount=2000)).result == "refused"
    assert not windlass_env.effects.all()


def test_an_order_that_is_never_delivered_fails(windlass_env: Environment) -> None:
    windlass_env.on_event("delivered", SILENCE)
    run = windlass_env.run(process_order, ORDER)
    assert run.state == "Failed"
    assert run.error.failure_type == "WaitTimeoutError"


def test_a_charge_is_tried_again(windlass_env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionError("down"), "receipt 2"])

    def flaky(*_: object, **__: object) -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(shop, "charge", flaky)
    run = windlass_env.start(process_order, ORDER)
    windlass_env.advance("10s")
    assert [wait.target for wait in run.waits_for] == ["delivered"]
    windlass_env.send_event("delivered", {"order": 7, "to": "Ada"})
    assert windlass_env.finish(run).result == "receipt 2, delivered to Ada"


def test_the_kit_says_what_a_test_has_forgotten(windlass_env: Environment) -> None:
    with pytest.raises(UnscriptedWaitError, match="on_event"):
        windlass_env.run(process_order, ORDER)


def test_an_order_survives_a_crash_at_any_point(windlass_env: Environment) -> None:
    windlass_env.on_event("delivered", {"order": 7, "to": "Ada"})
    report = crash_everywhere(process_order, ORDER)
    assert report.tried == report.boundaries
