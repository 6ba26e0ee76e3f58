"""Every kind of write to the ledger, each prepared so that it can be done at the moment of a test's choice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec

from tests.support.world import SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.services.submitted import Submission

Act = Callable[[], Awaitable[Any]]
Prepare = Callable[[World, str], Awaitable[Act]]
"""Takes a world and a word that no other preparation has; returns what is to be done."""

_LATER: Final = RetryPolicy(max_attempts=3, min_delay=timedelta(hours=1), jitter="none")


def _task(word: str) -> TaskSnapshot:
    """Return a task whose runs share their pods with no other's."""
    return a_task(pod=PodParts(image=f"runner:{word}", preload=None, source_hash="0" * 16), retry=_LATER)


async def _queued(world: World, word: str) -> UUID:
    return await world.submit(_task(word), name=f"task-{word}")


async def _running(world: World, word: str) -> tuple[UUID, protocol.ClaimedAttempt]:
    run_id = await _queued(world, word)
    (attempt,) = await world.claim(claim_id=word)
    return run_id, attempt


async def trigger(world: World, word: str) -> Act:
    return lambda: _queued(world, word)


async def trigger_with_a_key(world: World, word: str) -> Act:
    world.cluster.tasks[SHOP.namespace, word] = _task(word)
    return lambda: world.submissions.trigger(SHOP, Submission(task=word, payload=1, idempotency_key=word))


async def trigger_a_key_that_is_taken(world: World, word: str) -> Act:
    act = await trigger_with_a_key(world, word)
    await act()
    return act


async def trigger_many(world: World, word: str) -> Act:
    world.cluster.tasks[SHOP.namespace, word] = _task(word)
    wanted = [Submission(task=word, payload=n, idempotency_key=f"{word}-{n // 2}") for n in range(6)]
    return lambda: world.submissions.trigger_all(SHOP, wanted)


async def triggers_of_a_crowd(world: World, word: str) -> Act:
    """One is refused, so that its transaction is done again without it."""
    world.cluster.tasks[SHOP.namespace, word] = _task(word)
    keys = [f"{word}-{n}" for n in (1, 1, 2)]
    wanted = [
        *(Submission(task=word, payload=1, idempotency_key=key) for key in keys),
        Submission(task=word, version=9),
        Submission(task=word, payload=2),
    ]
    return lambda: asyncio.gather(*(world.submissions.trigger(SHOP, one) for one in wanted), return_exceptions=True)


async def trigger_that_fills_a_queue(world: World, word: str) -> Act:
    world.cluster.tasks[SHOP.namespace, word] = replace(_task(word), queue=word)
    await world.put_queue(word, maxLength=1)
    return lambda: world.submissions.trigger(SHOP, Submission(task=word))


async def import_of_a_resource(world: World, word: str) -> Act:
    world.cluster.tasks[SHOP.namespace, word] = _task(word)
    return lambda: world.apply_run(task=word, name=word)


async def pod_row(world: World, word: str) -> Act:
    await _queued(world, word)
    return world.pods.start_due


async def end_of_a_pod(world: World, word: str) -> Act:
    await _running(world, word)
    seen = list(world.cluster.pods.values())[-1]
    gone = PodSeen(seen.name, seen.namespace, seen.uid, exists=False, ended=True, succeeded=False, started=True)
    return lambda: world.pods.observe(gone)


async def claim(world: World, word: str) -> Act:
    await _queued(world, word)
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]

    async def act() -> None:
        (attempt,) = await world.attempts.claim(world.identity(seen), word, 1)
        assert await world.attempts.authenticate(attempt.token), "the token that was answered is the one that counts"

    return act


async def withdrawal_of_a_claim(world: World, word: str) -> Act:
    await _running(world, word)
    seen = list(world.cluster.pods.values())[-1]
    return lambda: world.attempts.withdraw(world.identity(seen), word)


async def heartbeat(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    request = protocol.HeartbeatRequest(beats=[protocol.Beat(token=attempt.token)])

    async def act() -> None:
        (answer,) = (await world.attempts.heartbeat(request)).answers
        assert answer.open, "its lease was extended"

    return act


async def steps(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    request = protocol.SaveStepsRequest(steps=[a_step("a"), a_step("b"), a_step("c", state="running")])
    return lambda: world.steps.save(attempt.token, request)


async def steps_of_a_crowd(world: World, word: str) -> Act:
    tokens = [(await _running(world, f"{word}-{n}"))[1].token for n in range(3)]

    async def act() -> None:
        saves = [world.steps.save(t, protocol.SaveStepsRequest(steps=[a_step(f"s{n}")])) for t in tokens for n in "ab"]
        await asyncio.gather(*saves)

    return act


async def protected_step(world: World, word: str) -> Act:
    """It begins, its pod is marked, and it ends."""
    await world.database.fetch("DELETE FROM protection")  # of earlier rounds, whose pods would be released meanwhile
    await world.database.fetch("UPDATE pod SET protection = NULL")
    _, attempt = await _running(world, word)

    async def act() -> None:
        for state in ("running", "succeeded"):
            step = a_step("a", state=state, protect=True)
            await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
            await world.marker.mark()

    return act


async def log_lines(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    lines = [protocol.LogLine(seq=n, stream="stdout", text=f"line {n}") for n in (1, 2, 3)]
    return lambda: world.steps.log(attempt.token, protocol.LogsRequest(lines=lines))


async def checkpoint(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    request = protocol.CheckpointRequest(n=1, state=msgspec.Raw(b"[1]"))
    return lambda: world.progress.checkpoint(attempt.token, request)


async def more_time(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("a")]))
    return lambda: world.progress.extend_timeout(attempt.token, protocol.ExtendRequest(added_ms=5000))


async def large_value(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    data = b'"' + b"x" * 70_000 + b'"'
    writer = await world.attempts.authenticate(attempt.token)
    return lambda: world.blobs.put(writer, sha256(data).hexdigest(), data)


def _wait(key: str, kind: str = "sleep", **more: Any) -> protocol.Wait:
    return protocol.Wait(key=key, name=key, args_hash="a", kind=kind, **{"due_in_ms": 3_600_000, **more})  # type: ignore[arg-type]  # one of the kinds


async def wait(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    request = protocol.WaitsRequest(waits=[_wait("nap"), _wait("paid", "event", target=word)])
    return lambda: world.waits.register(attempt.token, request)


async def suspend(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[_wait("nap")]))

    async def act() -> None:
        assert (await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=["nap"]))).suspended

    return act


async def end_of_a_sleep(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[_wait("nap")]))
    await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=["nap"]))
    await world.database.fetch("UPDATE wait SET due_at = ledger_now() - interval '1 second' WHERE kind = 'sleep'")
    return world.waits.fire_due


async def event(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[_wait("paid", "event", target=word)]))
    await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=["paid"]))
    return lambda: world.events.send(SHOP, word, {"n": 1}, None)


async def token(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    return lambda: world.tokens.create(attempt.token, protocol.CreateTokenRequest(key="t", timeout_ms=3_600_000))


async def token_is_completed(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    made = await world.tokens.create(attempt.token, protocol.CreateTokenRequest(key="t", timeout_ms=3_600_000))
    waits = [_wait("wait_for", "token", target=made.id)]
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=waits))
    found = await world.tokens.look_up(made.url.rpartition("/")[2])
    return lambda: world.tokens.complete(found, b'"done"')


async def _parent(world: World, word: str, *, awaited: bool) -> tuple[UUID, protocol.ClaimedAttempt, Act]:
    run_id, attempt = await _running(world, word)
    world.cluster.tasks[SHOP.namespace, f"part-{word}"] = _task(f"part-{word}")
    wanted = []
    for n in range(2):
        child = protocol.Child(
            key=f"c{n}", name=f"c{n}", args_hash="a", task=f"part-{word}", payload=msgspec.Raw(b"1"), awaited=awaited
        )
        wanted.append((child, Submission(task=child.task, at="")))
    return run_id, attempt, lambda: world.children.start(attempt.token, wanted)


async def children(world: World, word: str) -> Act:
    return (await _parent(world, word, awaited=True))[2]


async def completion_with_children(world: World, word: str) -> Act:
    """The last child ends, and its parent that waits for it is to go on."""
    _, parent, start = await _parent(world, word, awaited=True)
    await start()
    await world.waits.suspend(parent.token, protocol.SuspendRequest(waits=["c0", "c1"], together=[["c0", "c1"]]))
    await world.pods.start_due()
    pods = list(world.cluster.pods.values())[-2:]
    taken = [(await world.attempts.claim(world.identity(pod), f"{word}-{pod.uid}", 1))[0] for pod in pods]
    await world.attempts.complete(taken[0].token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))
    await world.endings.follow()

    async def act() -> None:
        await world.attempts.complete(taken[1].token, protocol.CompleteRequest(result=msgspec.Raw(b"2")))
        while await world.endings.follow() == timedelta(0):
            pass
        await world.endings.sweep()  # looks by itself: whoever has not heard of its commit tells nobody of the end

    return act


async def complete(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    request = protocol.CompleteRequest(result=msgspec.Raw(b"1"))

    async def act() -> None:
        assert (await world.attempts.complete(attempt.token, request)).state == "Succeeded"

    return act


async def fail(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)

    async def act() -> None:
        assert (await world.attempts.fail(attempt.token, a_failure())).state == "Queued"

    return act


async def fail_for_good(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)

    async def act() -> None:
        assert (await world.attempts.fail(attempt.token, a_failure("permanent"))).state == "Failed"

    return act


async def release(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    return lambda: world.attempts.release(attempt.token, protocol.ReleaseRequest(reason="PodTerminated"))


async def lost_attempt(world: World, word: str) -> Act:
    _, attempt = await _running(world, word)
    return lambda: world.attempts.lose(UUID(attempt.attempt_id), reason="LeaseExpired", message="")


async def cancel_of_a_queued_run(world: World, word: str) -> Act:
    run_id = await _queued(world, word)
    return lambda: world.runs.cancel(run_id, reason="Cancelled", message="")


async def cancel_of_a_running_run(world: World, word: str) -> Act:
    run_id, _ = await _running(world, word)
    return lambda: world.runs.cancel(run_id, reason="Cancelled", message="")


async def projection(world: World, word: str) -> Act:
    world.cluster.tasks[SHOP.namespace, word] = _task(word)
    await world.apply_run(task=word, name=word)

    async def act() -> None:
        await world.projection.project_due()
        assert world.cluster.statuses[word]["state"] == "Queued"

    return act


ALL: Final[list[Prepare]] = [
    trigger, trigger_with_a_key, trigger_a_key_that_is_taken, trigger_many, triggers_of_a_crowd,
    trigger_that_fills_a_queue, import_of_a_resource, pod_row, end_of_a_pod,
    claim, withdrawal_of_a_claim, heartbeat, steps, steps_of_a_crowd, protected_step, log_lines,
    checkpoint, more_time, large_value,
    wait, suspend, end_of_a_sleep, event, token, token_is_completed, children, completion_with_children, complete, fail,
    fail_for_good, release, lost_attempt, cancel_of_a_queued_run, cancel_of_a_running_run, projection,
]  # fmt: skip
