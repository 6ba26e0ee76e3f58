"""Questions to Kubernetes about people: how many are asked, how long an answer holds, and what none at all leads to."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.rest import ALICE, Rest
from windlass_operator.api import auth
from windlass_operator.api.auth import Remembered
from windlass_operator.domain.errors import WindlassError


async def test_a_crowd_of_requests_asks_kubernetes_once_for_each_question(rest: Rest) -> None:
    rest.reviews.slow = 0.05
    answers = await asyncio.gather(*(rest.get("/runs") for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    for _ in range(50):
        await rest.get("/runs")
    assert rest.reviews.asked == {ALICE: 1, ("alice", "list", "runs", "shop"): 1}


async def test_a_refusal_is_remembered_as_well(rest: Rest) -> None:
    for _ in range(20):
        assert (await rest.call("GET", "/api/v1/namespaces/bank/runs")).status == 403
        assert (await rest.get("/runs", token="nobody's")).status == 401
    assert rest.reviews.asked == {ALICE: 1, "nobody's": 1, ("alice", "list", "runs", "bank"): 1}


async def test_a_permission_that_was_taken_away_works_for_ten_seconds_at_most(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: now))
    assert (await rest.get("/runs")).status == 200
    rest.reviews.denied.add("alice")
    now += 9.9
    assert (await rest.get("/runs")).status == 200
    now += 0.1
    assert (await rest.get("/runs")).status == 403
    assert rest.reviews.asked[ALICE] == 2, "who it is has been asked again too"


async def test_a_flood_of_unknown_tokens_is_no_flood_at_kubernetes(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = most = 0

    async def slowly(*_: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1

    monkeypatch.setattr(rest.reviews, "token_review", slowly)
    answers = await asyncio.gather(*(rest.get("/runs", token=f"token-{n}") for n in range(300)))
    assert {answer.status for answer in answers} == {401}
    assert most == 32


async def test_what_is_remembered_has_a_limit() -> None:
    async def ask() -> bool:
        return True

    remembered: Remembered[int, bool] = Remembered(entries=3)
    for key in range(10):
        await remembered.get(key, ask)
    assert len(remembered) == 3


async def test_who_hangs_up_takes_the_answer_from_nobody() -> None:
    asked = 0
    go = asyncio.Event()

    async def ask() -> bool:
        nonlocal asked
        asked += 1
        await go.wait()
        return True

    remembered: Remembered[str, bool] = Remembered()
    first, second = (asyncio.create_task(remembered.get("k", ask)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    go.set()
    assert await second
    assert asked == 1


@pytest.mark.parametrize("error", [WindlassError("the API server said no to us"), TimeoutError()])
async def test_kubernetes_without_an_answer_is_neither_a_yes_nor_a_no(rest: Rest, error: Any) -> None:
    rest.reviews.broken = error
    answer = await rest.get("/runs")
    assert answer.error[:2] == (503, "AuthorizationUnavailable")
    assert answer.headers["Retry-After"] == "2"
    rest.reviews.broken = None
    assert (await rest.get("/runs")).status == 200, "an error is not remembered"
