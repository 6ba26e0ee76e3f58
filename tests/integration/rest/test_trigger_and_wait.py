"""A request to trigger that waits is answered with the run's result, as if that had been asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.ledger.test_attempts import complete
from tests.support.eventually import eventually
from tests.support.rest import ROOT, Answer, Rest
from tests.support.world import SHOP, a_failure, a_task
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.services import results

_PLAIN, _FASTAPI = "30s", "0.5m"
_QUERIES = pytest.mark.parametrize("wait", [_PLAIN, _FASTAPI])


@pytest.fixture(autouse=True)
def fast_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of changes here."""
    monkeypatch.setattr(results, "_LOOK_AGAIN", 0.01)


async def trigger(rest: Rest, query: str) -> Answer:
    return await rest.call("POST", f"{ROOT}/tasks/order/runs?{query}", data=b'{"payload": 1}')


async def runs(rest: Rest) -> Any:
    return (await rest.get("/runs")).json["items"]


async def ended(rest: Rest, wait: str, end: Callable[[str], Awaitable[Any]]) -> tuple[Answer, str]:
    """Trigger and wait for a run that ends so meanwhile; return the answer and the run's id."""
    rest.world.cluster.tasks[(SHOP.namespace, "order")] = a_task(retry=RetryPolicy(max_attempts=1))
    waiting = asyncio.create_task(trigger(rest, f"wait={wait}"))
    (run,) = await eventually(lambda: runs(rest), bool)
    (attempt,) = await rest.world.claim()
    await end(attempt.token)
    return await waiting, run["id"]


@_QUERIES
async def test_the_answer_is_the_result_and_says_whose(rest: Rest, wait: str) -> None:
    answer, run = await ended(rest, wait, lambda token: rest.world.attempts.complete(token, complete('{"paid": 3}')))
    assert (answer.status, answer.json) == (200, {"paid": 3})
    assert answer.headers["Location"] == f"{ROOT}/runs/{run}"


@_QUERIES
async def test_a_run_that_fails_is_a_refusal_that_names_it(rest: Rest, wait: str) -> None:
    answer, run = await ended(rest, wait, lambda token: rest.world.attempts.fail(token, a_failure()))
    assert answer.error[:2] == (409, "RunFailed")
    assert run in answer.error[2]


@pytest.mark.parametrize("wait", ["0s", "0.0m"])
async def test_a_run_that_has_not_ended_in_time_is_the_answer(rest: Rest, wait: str) -> None:
    answer = await trigger(rest, f"wait={wait}")
    assert (answer.status, answer.json["state"]) == (202, "Queued")
    assert answer.headers["Location"] == f"{ROOT}/runs/{answer.json['id']}"
    assert answer.headers["Retry-After"] == "1"


async def test_a_repeat_with_its_key_waits_for_the_first_run(rest: Rest) -> None:
    first = await rest.trigger({"idempotencyKey": "order-7"})
    (attempt,) = await rest.world.claim()
    await rest.world.attempts.complete(attempt.token, complete("42"))
    again = await rest.call("POST", f"{ROOT}/tasks/order/runs?wait=30s", data=b'{"idempotencyKey": "order-7"}')
    assert (again.status, again.json, again.headers["Location"]) == (200, 42, first.headers["Location"])


@_QUERIES
async def test_who_may_start_runs_and_not_read_them_gets_no_result_and_starts_nothing(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    allowed = rest.reviews.allowed

    async def all_but_get(who: Any, verb: str, *what: str) -> bool:
        return verb != "get" and await allowed(who, verb, *what)

    monkeypatch.setattr(rest.reviews, "allowed", all_but_get)
    assert (await trigger(rest, f"wait={wait}")).status == 403
    assert await runs(rest) == []
    assert (await rest.trigger({})).status == 201, "without waiting, they may"


@pytest.mark.parametrize("query", ["wait=soon", "wait=-1s", "wiat=2s", "wait="])
async def test_a_query_that_is_none_starts_nothing(rest: Rest, query: str) -> None:
    answer = await trigger(rest, query)
    assert answer.error[:2] == (400, "InvalidRequest")
    assert await runs(rest) == []
