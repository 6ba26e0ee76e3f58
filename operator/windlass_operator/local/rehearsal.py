"""The control plane of a test: the real services on a real ledger, whose clock stands still until somebody moves it.

Nothing happens here by itself: no lease runs out, and no pod starts. Whoever rehearses asks for the next attempt, runs
it, and asks again; when there is none, something is waited for, and it is theirs to say what comes of it.
``windlass.testing`` in the SDK does that, over the pipe of ``rehearsing.py``.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from windlass_operator.domain.approvals import ApprovalState
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan
from windlass_operator.domain.project import Project
from windlass_operator.ledger import rehearsal, tokens
from windlass_operator.ledger.projection import take_epoch
from windlass_operator.local.cluster import LocalCluster
from windlass_operator.local.plane import LocalPlane
from windlass_operator.local.pods import LocalPods
from windlass_operator.local.resources import DEFAULT_NAMESPACE, LocalResources
from windlass_operator.resources.names import TASK_KIND
from windlass_operator.services.approvals import Verdict
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.pods import PodService
from windlass_operator.services.submitted import Submission
from windlass_operator.services.tokens import TokenNotFoundError

_STEPS: Final = 10_000


class Clock:
    """The ledger's time: it stands still until it is moved."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        """Return the current time."""
        return self.at


class Stage(LocalCluster):
    """Pods that are nothing but a right to claim: whoever runs the next attempt is in the first of them."""

    def __init__(self, resources: LocalResources, pods: LocalPods) -> None:
        super().__init__(resources, pods)
        self._ready: list[PodIdentity] = []

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        """Note a pod."""
        uid = str(uuid4())
        self._ready.append(PodIdentity(uid, plan.name, secret=self._credentials[plan.namespace]))
        return uid

    def take(self) -> PodIdentity | None:
        """Return the first pod in which nobody is."""
        return self._ready.pop(0) if self._ready else None

    def clear(self) -> None:
        """Forget all pods."""
        self._ready.clear()


class Rehearsal:
    """What a test may do with its control plane. Names and values are JSON's: everything comes over a pipe.

    Args:
        plane: On an empty ledger, with ``Stage`` for its cluster; it does not operate.
        clock: Its time.
    """

    def __init__(self, plane: LocalPlane, clock: Clock) -> None:
        assert isinstance(plane.context.cluster, Stage), "its pods are ours"
        self._plane = plane
        self._services = plane.context
        self._stage = plane.context.cluster
        self._clock = clock
        self._project: Project
        self._pods: PodService

    async def reset(self, now: str | None = None) -> dict[str, Any]:
        """Forget everything; the time is the machine's, or this one."""
        await rehearsal.empty(self._services.database)
        self._stage.clear()
        for task in self._plane.resources.all(TASK_KIND):
            self._plane.resources.delete(TASK_KIND, DEFAULT_NAMESPACE, task["metadata"]["name"])
        self._clock.at = datetime.fromisoformat(now) if now else datetime.now(UTC)
        services = self._services
        self._project = await self._stage.project(DEFAULT_NAMESPACE)
        self._pods = PodService(
            services.database,
            self._stage,
            services.attempts,
            CredentialService(services.database, self._stage),
            epoch=await take_epoch(services.database, "rehearsal"),
            max_starting=10_000,
        )
        await services.attempts.serve_heartbeats()
        return {"now": self._clock.at.isoformat()}

    async def apply(self, task: dict[str, Any]) -> None:
        """Make a Task known, from its resource."""
        self._plane.resources.apply(task)

    async def submit(
        self, task: str, payload: Any, tags: list[str], idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Accept a run."""
        wanted = Submission(task=task, payload=payload, tags=tuple(tags), idempotency_key=idempotency_key)
        return {"runId": str((await self._services.submissions.trigger(self._project, wanted)).run_id)}

    async def next(self) -> dict[str, Any]:
        """Return the next attempt; where there is none, what everything waits for, and the time."""
        while await self._services.endings.sweep() is not None:
            pass
        await self._pods.start_due()
        while (pod := self._stage.take()) is not None:
            for attempt in await self._services.attempts.claim(pod, str(uuid4()), 1):
                return {"attempt": msgspec.json.encode(attempt).decode(), "now": self._clock.at.isoformat()}
        return {
            "waits": [_wait(row) for row in await rehearsal.open_waits(self._services.database)],
            **await self._due(),
        }

    async def _due(self) -> dict[str, Any]:
        database = self._services.database
        times = {"nextTry": await rehearsal.next_try(database), "nextDeadline": await rehearsal.next_deadline(database)}
        return {"now": self._clock.at.isoformat(), **{k: t.isoformat() if t else None for k, t in times.items()}}

    async def move(self, until: str) -> None:
        """Let the time be another one, never an earlier one, and do what is due then."""
        self._clock.at = max(self._clock.at, datetime.fromisoformat(until))
        services = self._services
        while await services.waits.fire_due() == timedelta(0):
            pass
        await services.progress.end_overdue()

    async def lose(self, attempt_id: str, reason: str, message: str) -> dict[str, Any]:
        """Close an attempt whose runner is gone, as a pod's end does."""
        lost = await self._services.attempts.lose(UUID(attempt_id), reason=reason, message=message)
        return {"lost": lost}

    async def send_event(self, name: str, payload: Any, event_id: str | None = None) -> dict[str, Any]:
        """Send an event."""
        sent = await self._services.events.send(self._project, name, payload, event_id)
        return {"id": sent.id, "runs": sent.runs}

    async def decide(self, run_id: str, key: str, approved: bool, by: str, comment: str | None = None) -> None:
        """Decide the approval that a wait is for."""
        found = await self._approval(run_id, key)
        verdict = Verdict("Approved" if approved else "Refused", by, comment, "api")
        await self._services.approvals.decide(found, verdict)

    async def _approval(self, run_id: str, key: str) -> Any:
        page, _ = await self._services.approvals.list_page(
            self._project, frozenset({ApprovalState.PENDING}), before=None, limit=1000
        )
        return next(one for one in page if (str(one.run_id), one.key) == (run_id, key))

    async def complete_token(self, token: str, value: Any) -> None:
        """Complete a token, given its id or its address."""
        last = token.rsplit("/", 1)[-1]
        if "." in last:
            found = await self._services.tokens.look_up(last)
        else:
            by_id = await tokens.find(self._services.database, UUID(last))
            if by_id is None:
                raise TokenNotFoundError
            found = by_id
        await self._services.tokens.complete(found, json.dumps(value).encode())

    async def cancel(self, run_id: str) -> None:
        """Cancel a run."""
        await self._services.runs.cancel(UUID(run_id), reason="Cancelled", message="The test cancelled it.")

    async def see(self, run_id: str) -> dict[str, Any]:
        """Return a run with its steps."""
        row = await self._services.runs.get(self._project, run_id)
        steps = await self._services.runs.steps(UUID(run_id), after=0, limit=_STEPS)
        attempts = await self._services.runs.attempts(UUID(run_id))
        return {
            "id": run_id, "task": row["task"], "state": row["state"], "reason": row["reason"],
            "message": row["message"], "attempts": len(attempts), "tags": list(row["tags"] or ()),
            "result": await self._value(run_id, row["result"], row["result_sha256"]),
            "error": _plain(row["error"]),
            "steps": [
                {
                    "key": s["key"], "name": s["name"], "kind": s["kind"], "state": s["state"], "tries": s["tries"],
                    "result": await self._value(run_id, s["result"], s["result_sha256"]),
                    "error": _plain(s["error"]), "childId": str(s["child_id"]) if s["child_id"] else None,
                }
                for s in steps
            ],
        }  # fmt: skip

    async def _value(self, run_id: str, text: str | None, sha256: str | None) -> Any:
        if sha256 is not None:
            text = (await self._services.blobs.get(self._project.uid, UUID(run_id), sha256)).decode()
        return None if text is None else json.loads(text)


def _plain(error: Any) -> Any:
    """Return a failure as JSON has it."""
    if error is None or isinstance(error, dict):
        return error
    return json.loads(error if isinstance(error, str | bytes) else msgspec.json.encode(error))


def _wait(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "runId": str(row["run_id"]), "task": row["task"], "key": row["key"], "name": row["name"], "kind": row["kind"],
        "due": row["due_at"].isoformat() if row["due_at"] else None, "target": row["target"],
        "detail": json.loads(row["detail"]) if row["detail"] else None, "question": row["question"],
    }  # fmt: skip
