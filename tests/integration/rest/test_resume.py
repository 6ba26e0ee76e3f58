"""Resuming a suspended run through the API."""

import pytest

from tests.support.rest import Rest
from tests.support.world import SHOP, World, a_task
from windlass import protocol


async def suspended(rest: Rest) -> str:
    run = (await rest.trigger({})).json["id"]
    (attempt,) = await rest.world.claim(claim_id=f"claim-of-{run}")
    failure = protocol.Failure(type="DivergenceError", message="m", failure_class="permanent", reason="Divergence")
    await rest.world.attempts.fail(attempt.token, protocol.FailRequest(failure=failure))
    return str(run)


def new_version(world: World) -> None:
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task(source="x = 2")


def path(run: str) -> str:
    return f"/api/v1/namespaces/shop/runs/{run}/resume"


@pytest.mark.parametrize(("body", "version"), [(None, 2), (b"{}", 2), (b'{"version": 1}', 1), (b'{"version": 2.0}', 2)])
async def test_a_suspended_run_goes_on_with_the_newest_version_or_the_one_asked_for(
    rest: Rest, body: bytes | None, version: int
) -> None:
    run = await suspended(rest)
    new_version(rest.world)
    if version == 2:  # known by its number only once something has asked for it
        await rest.trigger({})
    answer = await rest.call("POST", path(run), data=body)
    assert (answer.status, answer.json["state"], answer.json["version"]) == (202, "Queued", version)
    again = await rest.call("POST", path(run), data=body)
    assert again.error[:2] == (409, "RunNotSuspended")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b'{"version": 9}', 404, "TaskNotFound", "version"),
        (b'{"version": 0}', 400, "InvalidRequest", "version"),
        (b'{"versoin": 1}', 400, "InvalidRequest", "versoin"),
        (b"[]", 400, "InvalidRequest", "body"),
    ],
)
async def test_what_cannot_be_resumed_so_stays_suspended(
    rest: Rest, body: bytes | None, status: int, code: str, field: str
) -> None:
    run = await suspended(rest)
    answer = await rest.call("POST", path(run), data=body)
    assert (answer.error[:2], answer.json["field"]) == ((status, code), field)
    assert (await rest.call("GET", path(run).removesuffix("/resume"))).json["state"] == "Suspended"
