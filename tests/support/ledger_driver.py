"""Does to a real ledger what the reference model does to itself, and says what the services answered."""

import contextlib
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from tests.support.clock import Clock
from tests.support.reference_model import REFUSED, Step
from tests.support.world import SHOP, World, a_task
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError, UnauthorizedError
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import SCHEMA, Database
from windlass_operator.services.children import RunEndingError
from windlass_operator.services.invariants import InvariantService, Violation
from windlass_operator.services.resumption import NotSuspendedError
from windlass_operator.services.submitted import Submission

TASK: Final = a_task(retry=RetryPolicy(max_attempts=3, min_delay=timedelta(0), jitter="none"))
_CLEAN: Final = "TRUNCATE project CASCADE; UPDATE heartbeat_service SET served_at = %(now)s, served_since = %(now)s"
_SHOWN: Final = """
SELECT run.id::text, run.state, run.user_failures AS user, run.infra_failures AS infra, run.attempts,
       coalesce((SELECT json_object_agg(key, step.state) FROM step WHERE step.run_id = run.id), '{}') AS steps FROM run
"""


class Op(NamedTuple):
    """One operation: the name of a method of model and driver alike, and its arguments."""

    name: str
    args: tuple[Any, ...] = ()


class Driver:
    """The real services on a ledger that is empty at the start."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.world = World(database)
        self.tokens: dict[tuple[str, int], str] = {}
        self.pod_of: dict[str, PodSeen] = {}
        self.idle: list[PodSeen] = []
        self._families = False

    @classmethod
    async def start(cls, uri: str, clock: Clock) -> "Driver":
        async with await psycopg.AsyncConnection.connect(uri, options=f"-c search_path={SCHEMA}") as connection:
            for statement in _CLEAN.split(";"):
                await connection.execute(statement.encode(), {"now": clock.now()})
        database = Database(uri, size=8, now=clock.now)
        await database.open()
        driver = cls(database, clock)
        for name in ("order", "part"):
            driver.world.cluster.tasks[SHOP.namespace, name] = TASK
        await driver.world.start()
        return driver

    async def do(self, op: Op) -> Any:
        """Do it and return what is compared with the model."""
        try:
            return await getattr(self, op.name)(*op.args)
        except (AttemptClosedError, UnauthorizedError):
            return REFUSED

    async def shown(self) -> dict[str, dict[str, Any]]:
        """Return what is compared with the model of each run."""
        return {row.pop("id"): dict(row) for row in await self.database.fetch(_SHOWN)}

    async def start_pods(self) -> None:
        """Start the pods that are due: one for each run that may start and has none on its way."""
        known = {seen.uid for seen in [*self.idle, *self.pod_of.values()]}
        await self.world.pods.start_due()
        self.idle += [seen for uid, seen in self.world.cluster.pods.items() if uid not in known]

    async def settle(self) -> None:
        """Do what follows from ends, as the operator's loop does, until nothing follows any more."""
        for _ in range(4 if self._families else 0):
            await self.world.endings.sweep()

    async def broken(self) -> list[Violation]:
        return await InvariantService(self.database, late=timedelta(days=9999), again=0).check()

    async def pass_time(self, by: timedelta, *, served: bool) -> None:
        self.clock.advance(by)
        if served:
            await self.database.fetch("UPDATE heartbeat_service SET served_at = ledger_now()")
        else:
            await self.world.attempts.serve_heartbeats()

    # What clients do

    async def trigger(self, key: str | None) -> str:
        wanted = Submission(task="order", idempotency_key=key)
        return str((await self.world.submissions.trigger(SHOP, wanted)).run_id)

    async def cancel(self, run_id: str) -> str:
        return str(await self.world.runs.cancel(UUID(run_id), reason="Cancelled", message=""))

    async def resume(self, run_id: str) -> str:
        try:
            await self.world.resumption.resume(SHOP, UUID(run_id), "order")
        except NotSuspendedError:
            return "not suspended"
        return "Queued"

    async def send(self, name: str) -> None:
        await self.world.events.send(SHOP, name, None, None)
        await self.world.events.deliver_due()

    # What runners do

    async def claim(self) -> tuple[str, str, int, bool, frozenset[str]] | None:
        pod = self.idle.pop()
        taken = await self.world.attempts.claim(self.world.identity(pod), pod.uid, 1)
        if not taken:
            self.idle.append(pod)
            return None
        (attempt,) = taken
        self.pod_of[attempt.attempt_id] = pod
        self.tokens[attempt.attempt_id, 0] = attempt.token
        known = frozenset(step.key for step in attempt.steps)
        return attempt.run_id, attempt.attempt_id, attempt.number, attempt.compensating, known

    async def claim_again(self, attempt_id: str) -> int | None:
        pod = self.pod_of[attempt_id]
        taken = await self.world.attempts.claim(self.world.identity(pod), pod.uid, 1)
        if not taken:
            return None
        assert [attempt.attempt_id for attempt in taken] == [attempt_id]
        secret = max(known for owner, known in self.tokens if owner == attempt_id) + 1
        self.tokens[attempt_id, secret] = taken[0].token
        return secret

    async def heartbeat(self, attempt_id: str, secret: int) -> tuple[bool, bool]:
        beats = [protocol.Beat(token=self.tokens[attempt_id, secret])]
        (answer,) = (await self.world.attempts.heartbeat(protocol.HeartbeatRequest(beats=beats))).answers
        return answer.open, answer.cancel

    async def save(self, attempt_id: str, secret: int, key: str, step: Step) -> str:
        saved = protocol.Step(key=key, name=key, args_hash="a", state=step.state, durable=step.durable)  # type: ignore[arg-type]  # one of the four
        if step.state == "succeeded":
            saved.result = msgspec.Raw(b"1")
        if step.undoable:
            saved.compensation = msgspec.Raw(b"{}")
        await self.world.steps.save(self.tokens[attempt_id, secret], protocol.SaveStepsRequest(steps=[saved]))
        return "saved"

    async def wait(self, attempt_id: str, secret: int, key: str, step: Step) -> str:
        kind: protocol.StepKind = "event" if step.event else "sleep"
        due = None if step.due is None else (step.due - self.clock.now()).total_seconds() * 1000
        asked = protocol.Wait(key=key, name=key, args_hash="a", kind=kind, due_in_ms=due, target=step.event)
        request = protocol.WaitsRequest(waits=[asked])
        answer = await self.world.waits.register(self.tokens[attempt_id, secret], request)
        return "over" if answer.over else "waits"

    async def start_child(self, attempt_id: str, secret: int, key: str, detached: bool) -> str:
        self._families = True
        asked = protocol.Child(key=key, name=key, args_hash="a", task="part", awaited=True, detached=detached)
        try:
            wanted = [(asked, Submission(task="part"))]
            answer = await self.world.children.start(self.tokens[attempt_id, secret], wanted)
        except RunEndingError:
            return "ending"
        return answer.run_ids[0]

    async def complete(self, attempt_id: str, secret: int) -> str:
        request = protocol.CompleteRequest(result=msgspec.Raw(b"1"))
        return (await self.world.attempts.complete(self.tokens[attempt_id, secret], request)).state

    async def fail(self, attempt_id: str, secret: int, kind: str) -> str:
        divergence = "Divergence" if kind == "divergence" else None
        failure = protocol.Failure(type="ValueError", message="boom", reason=divergence)
        failure.failure_class = "permanent" if divergence else kind  # type: ignore[assignment]  # one of the classes
        request = protocol.FailRequest(failure=failure)
        return (await self.world.attempts.fail(self.tokens[attempt_id, secret], request)).state

    async def release(self, attempt_id: str, secret: int) -> str:
        request = protocol.ReleaseRequest(reason="PodTerminated")
        return (await self.world.attempts.release(self.tokens[attempt_id, secret], request)).state

    async def suspend(self, attempt_id: str, secret: int, keys: frozenset[str]) -> str:
        request = protocol.SuspendRequest(waits=sorted(keys) or ["none"])
        try:
            answer = await self.world.waits.suspend(self.tokens[attempt_id, secret], request)
        except InvalidRequestError:
            return "invalid"
        return "suspended" if answer.suspended else "goes on"

    # What the control plane does

    async def lose(self, attempt_id: str) -> bool:
        return await self.world.attempts.lose(UUID(attempt_id), reason="NodeLost", message="The node is gone.")

    async def pod_gone(self, attempt_id: str) -> bool:
        """The same, as the observer of pods meets it."""
        pod = self.pod_of[attempt_id]
        self.world.cluster.pods.pop(pod.uid, None)
        state = "SELECT closed_at IS NULL AS open FROM attempt WHERE id = %(id)s"
        before = await self.database.fetch(state, {"id": attempt_id})
        gone = PodSeen(pod.name, pod.namespace, pod.uid, exists=False, ended=True, succeeded=False, started=True)
        await self.world.pods.observe(gone)
        return bool(before[0]["open"])

    async def reap(self) -> int:
        return await self.world.attempts.reap()

    async def fire(self) -> None:
        await self.world.waits.fire_due()

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            for noting in list(self.world.steps._noted.values()):
                await noting
        await self.database.close()
