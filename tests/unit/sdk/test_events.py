"""Events in the code of a task."""

import json
from typing import Any

import pytest

from tests.support.history import History
from windlass import (
    Event,
    StepError,
    WaitTimeoutError,
    gather,
    protocol,
    send_event,
    send_event_sync,
    step,
    task,
    wait_for_event,
    wait_for_event_sync,
)


def an_event(payload: Any, name: str = "paid") -> Any:
    return {"name": name, "id": "a", "payload": payload, "sentAt": "2030-01-01T12:00:00+00:00"}


def result_of(done: Any) -> Any:
    assert done.complete is not None, done.fail
    return json.loads(bytes(done.complete.result))


def test_an_event_is_waited_for_and_given_to_the_code() -> None:
    @task
    async def main() -> Any:
        event = await wait_for_event("paid", {"orderId": 7}, timeout="7d", lookback="1h")
        assert isinstance(event, Event)
        return [event.name, event.id, event.payload, event.sent_at.isoformat()]

    history = History()
    history.run(main)
    assert history.suspended == [(["wait_for_event"], [])]
    wait = history.waits["wait_for_event"]
    assert (wait.kind, wait.target, wait.due_in_ms) == ("event", "paid", 7 * 86_400_000)
    assert json.loads(bytes(wait.detail)) == {"match": {"orderId": 7}, "lookbackMs": 3_600_000.0}
    history.end_wait("wait_for_event", an_event({"orderId": 7}))
    assert result_of(history.run(main, number=2)) == ["paid", "a", {"orderId": 7}, "2030-01-01T12:00:00+00:00"]


def test_a_timeout_is_an_exception_in_the_code() -> None:
    @task
    def main() -> str:
        try:
            wait_for_event_sync("paid", timeout="1m")
        except WaitTimeoutError as error:
            return str(error)
        return "came"

    history = History()
    history.run(main)
    history.end_wait("wait_for_event", failure=protocol.Failure(type="WaitTimeoutError", message="too late"))
    assert result_of(history.run(main, number=2)) == "too late"


def test_each_wait_of_a_loop_is_its_own() -> None:
    @task
    async def main() -> list[Any]:
        return [(await wait_for_event("paid")).payload for _ in range(2)]

    history = History()
    history.run(main)
    history.end_wait("wait_for_event", an_event(1))
    history.run(main, number=2)
    history.end_wait("wait_for_event#2", an_event(2))
    assert result_of(history.run(main, number=3)) == [1, 2]


def test_a_run_sends_an_event_once_with_an_id_that_a_repeat_has_too() -> None:
    @task
    async def main() -> list[str]:
        return list(await gather(send_event("paid", {"orderId": 7}), send_event("paid", 2, id="mine")))

    history = History()
    first = result_of(history.run(main))
    assert {(sent.name, sent.id) for sent in history.sent} == {("paid", first[0]), ("paid", "mine")}
    assert result_of(history.run(main, number=2)) == first
    assert len(history.sent) == 2, "a step that is saved is not run again"
    history.steps.clear()  # a crash before the step was saved
    assert result_of(history.run(main, number=3)) == first


def test_synchronous_code_sends_too() -> None:
    @task
    def main() -> str:
        return send_event_sync("paid")

    history = History()
    assert result_of(history.run(main)) == history.sent[0].id
    assert bytes(history.sent[0].payload) == b"null"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, 7])
def test_what_is_no_name_is_refused_where_it_is_written(name: Any) -> None:
    with pytest.raises(ValueError, match="cannot be the name of an event"):
        send_event_sync(name)
    with pytest.raises(ValueError, match="cannot be the name of an event"):
        wait_for_event_sync(name)


def test_a_step_neither_sends_nor_waits() -> None:
    said = []

    @step
    def inside() -> None:
        for call in (lambda: send_event_sync("paid"), lambda: wait_for_event_sync("paid")):
            try:
                call()
            except StepError as error:
                said.append(str(error))

    @task
    def main() -> None:
        inside()

    History().run(main)
    assert len(said) == 2
