"""Stopping: a pod that must end, a run that was cancelled."""

import signal

from tests.support.eventually import eventually
from tests.support.proxy import Loss, proxied
from tests.support.runner import code, ended, run_once, runner
from tests.support.world import World
from windlass_runner import exit_codes

QUICK = "@task\ndef main():\n    return current_run().attempt\n"


async def test_sigterm_while_the_claim_waits_ends_the_pod_which_takes_nothing_any_more(world: World, url: str) -> None:
    cancelled = await world.submit(code(QUICK))
    await world.pods.start_due()
    await world.runs.cancel(cancelled, reason="Cancelled", message="so that there is nothing to claim")
    async with proxied(url) as proxy, runner(world, proxy.url, WINDLASS_CLAIM_WAIT_MS="20000") as process:
        await eventually(lambda: _calls(proxy.calls["claim"]))
        process.send_signal(signal.SIGTERM)
        assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    run_id = await world.submit(code(QUICK))
    assert (await run_once(world, url))[0] == exit_codes.DONE, "a pod of its own, not the one that was stopped"
    assert (await world.get(run_id))["attempts"] == 1


async def test_sigterm_before_the_answer_to_the_claim_arrives_uses_no_attempt(world: World, url: str) -> None:
    def lose(route: str) -> Loss:
        return "answer" if route == "claim" else None

    run_id = await world.submit(code(QUICK))
    async with proxied(url) as proxy:
        proxy.lose = lose
        async with runner(world, proxy.url) as process:
            await eventually(lambda: world.get(run_id), lambda row: row["state"] == "Running")
            process.send_signal(signal.SIGTERM)
            assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_sigterm_while_the_api_is_out_of_reach_ends_the_pod_within_its_grace(world: World, url: str) -> None:
    await world.submit(code(QUICK))
    async with proxied(url) as proxy:
        proxy.lose = lambda _: "request"
        async with runner(world, proxy.url) as process:
            await eventually(lambda: _calls(proxy.calls["claim"]))
            process.send_signal(signal.SIGTERM)
            assert (await ended(process, seconds=15))[0] == exit_codes.DONE
    assert proxy.calls["withdraw"] == 1


async def _calls(number: int) -> int:
    return number
