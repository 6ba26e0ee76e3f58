"""Approval resources without Kubernetes, with the rules that a person meets: one decision, and no fakes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec

from windlass import protocol
from windlass_operator.domain.approvals import Approval, ApprovalNameTakenError
from windlass_operator.kube.approvals import manifest
from windlass_operator.resources.approval import status_of, status_of_stranger

if TYPE_CHECKING:
    from tests.support.world import World

HOUR = timedelta(hours=1)


@dataclass
class FakeApprovals:
    """Resources by UID.

    Attributes:
        refuse: Raised where one is made, by its name.
        posts: How many were asked for.
        lost_answers: How many creations take place without an answer.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuse: dict[str, Exception] = field(default_factory=dict)
    posts: int = 0
    lost_answers: list[Exception] = field(default_factory=list)
    disowned: list[str] = field(default_factory=list)

    def named(self, name: str) -> dict[str, Any] | None:
        """Return the one with this name."""
        return next((body for body in self.objects.values() if body["metadata"]["name"] == name), None)

    def add(self, body: dict[str, Any], namespace: str) -> str:
        """Store an object as the API server does."""
        uid = str(uuid4())
        metadata = {**body["metadata"], "namespace": namespace, "uid": uid, "generation": 1}
        self.objects[uid] = {"metadata": metadata, "spec": dict(body["spec"])}
        return uid

    def decide(self, name: str, decision: str, by: str, comment: str | None = None) -> dict[str, Any]:
        """Write a decision as a person does, and return the object."""
        body = self.named(name)
        assert body is not None
        assert "decision" not in body["spec"], "the CRD refuses a second one"
        body["spec"] |= {"decision": decision, "by": by} | ({"comment": comment} if comment else {})
        body["metadata"]["generation"] += 1
        return body

    async def create(self, approval: Approval) -> str:
        self.posts += 1
        if approval.name in self.refuse:
            raise self.refuse[approval.name]
        found = self.named(approval.name)
        if found is None:
            uid = self.add(manifest(approval), approval.namespace)
        elif found["spec"].get("runId") == str(approval.run_id):
            uid = found["metadata"]["uid"]
        else:
            raise ApprovalNameTakenError(approval.name, approval.namespace)
        if self.lost_answers:
            raise self.lost_answers.pop()
        return uid

    async def uid(self, namespace: str, name: str) -> str | None:
        found = self.named(name)
        return None if found is None else str(found["metadata"]["uid"])

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        for body in list(self.objects.values()):
            yield body

    async def write_decision(self, approval: Approval) -> bool:
        body = self.objects.get(str(approval.uid))
        if body is None or "decision" in body["spec"]:
            return False
        self.decide(approval.name, approval.state.value, str(approval.by), approval.comment)
        return True

    async def show(self, approval: Approval) -> bool:
        body = self.objects.get(str(approval.uid))
        if body is None:
            return False
        body["status"] = status_of(approval)
        return True

    async def disown(self, namespace: str, name: str, uid: str, generation: int) -> None:
        self.disowned.append(name)
        self.objects[uid]["status"] = status_of_stranger(generation, datetime.now(UTC))

    async def delete(self, namespace: str, name: str, uid: str) -> bool:
        return self.objects.pop(uid, None) is not None


def a_question(key: str = "approval", *, timeout: timedelta | None = HOUR, **detail: Any) -> protocol.Wait:
    """Return a wait for a decision."""
    text = msgspec.json.encode({"question": "Refund 80 EUR?", **detail})
    due = None if timeout is None else timeout.total_seconds() * 1000
    return protocol.Wait(
        key=key,
        name=key,
        args_hash="a",
        kind="approval",
        target="approval",
        due_in_ms=due,
        detail=msgspec.Raw(text),
    )


async def asking(world: "World", *asked: protocol.Wait) -> tuple[UUID, protocol.ClaimedAttempt]:
    """Return a run that waits for decisions and for nothing else, and its attempt."""
    waits = list(asked or [a_question()])
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=waits))
    keys = [wait.key for wait in waits]
    assert (await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=keys))).suspended
    return run_id, attempt
