"""How process 1 asks for work: once, or until something comes."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from windlass import protocol
from windlass_runner import main
from windlass_runner.api import Unreachable
from windlass_runner.config import Config

ENV = {"WINDLASS_URL": "http://api:8080", "POD_NAME": "order-1", "POD_UID": "uid-1", "WINDLASS_CREDENTIAL": "wlr_x"}
WORK = protocol.ClaimedAttempt(
    attempt_id="a",
    token="a.t",
    run_id="r",
    number=1,
    max_attempts=3,
    task="order",
    namespace="shop",
    entrypoint="order:main",
    lease_ms=10_000,
    heartbeat_ms=10_000,
)
AGAIN, NOTHING, LEAVE = (
    protocol.ClaimResponse(again=True),
    protocol.ClaimResponse(),
    protocol.ClaimResponse(leave=True),
)
Said = protocol.ClaimResponse | Exception


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Let the API answer in this order, an hour apart, and return what it was asked."""
    now = [0.0]
    monkeypatch.setattr("windlass_runner.main.time.monotonic", lambda: now[0])

    def of(*answers: Said) -> list[dict[str, Any]]:
        left, asked = list(answers), list[dict[str, Any]]()

        class Api:
            def __init__(self, url: str) -> None:
                assert url == ENV["WINDLASS_URL"]

            def call(self, path: str, request: protocol.ClaimRequest, *, sent: Callable[[], None], **how: Any) -> bytes:
                asked.append({"path": path, "claim_id": request.claim_id, "wait_ms": request.wait_ms, **how})
                sent()
                now[0] += 3600
                answer = left.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                return msgspec.json.encode(answer)

        monkeypatch.setattr(main, "ApiClient", Api)
        return asked

    return of


Script = Callable[..., list[dict[str, Any]]]


def test_a_pod_that_was_started_for_a_run_asks_once(script: Script) -> None:
    asked = script(NOTHING)
    assert main.claim(Config(ENV)) == NOTHING
    assert [call["wait_ms"] for call in asked] == [10_000]


def test_a_standby_pod_asks_for_the_same_claim_until_it_gets_something(script: Script) -> None:
    asked = script(AGAIN, AGAIN, protocol.ClaimResponse(attempts=[WORK]))
    answer = main.claim(Config({**ENV, "WINDLASS_STANDBY": "1"}))
    assert [attempt.attempt_id for attempt in answer.attempts] == ["a"]
    assert len({call["claim_id"] for call in asked}) == 1
    assert [call["wait_ms"] for call in asked] == [25_000] * 3


def test_a_standby_pod_that_has_nothing_to_wait_for_leaves(script: Script) -> None:
    script(AGAIN, LEAVE)
    assert main.claim(Config(ENV)) == LEAVE


def test_an_api_that_was_never_reached_ends_the_pod(script: Script) -> None:
    script(Unreachable("no"))
    with pytest.raises(Unreachable):
        main.claim(Config(ENV))


def test_an_outage_of_hours_is_waited_out_by_a_pod_that_was_told_to_ask_again(script: Script) -> None:
    away = [Unreachable("away")] * 5
    asked = script(AGAIN, *away, AGAIN, *away, protocol.ClaimResponse(attempts=[WORK]))
    assert main.claim(Config(ENV)).attempts
    assert len(asked) == 13


def test_an_outage_of_a_day_ends_it(script: Script) -> None:
    asked = script(AGAIN, *[Unreachable("away")] * 30)
    with pytest.raises(Unreachable):
        main.claim(Config(ENV))
    assert len(asked) == 25


def test_user_code_is_let_in_once(script: Script) -> None:
    script(AGAIN, AGAIN, LEAVE)
    let_in = []
    main.claim(Config(ENV), lambda: let_in.append(1))
    assert let_in == [1]


def test_a_pod_with_a_session_asks_by_itself_from_its_first_answer_on(script: Script) -> None:
    asked = script(protocol.ClaimResponse(again=True, session="s"))
    assert main.claim(Config(ENV)).session == "s"
    assert len(asked) == 1
