"""Approvals: begun by runs, decided by people, through whichever door. The first decision ends the wait."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec

from windlass import protocol
from windlass_operator.domain.approvals import (
    Approval,
    ApprovalNotFoundError,
    ApprovalOverError,
    ApprovalState,
    Door,
)
from windlass_operator.domain.errors import InvalidRequestError, PayloadTooLargeError
from windlass_operator.domain.project import Project
from windlass_operator.ledger import approvals, runs, waits
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Value
from windlass_operator.ledger.waits import Outcome
from windlass_operator.resources.approval import BY_MAX, COMMENT_MAX, QUESTION_MAX
from windlass_operator.services import payloads

DETAILS_LIMIT: Final = 16 * 1024
"""Bytes of JSON: they stand in a resource, which people read and etcd keeps."""


class _Asked(msgspec.Struct):
    """The detail of a wait of kind approval."""

    question: Annotated[str, msgspec.Meta(min_length=1, max_length=QUESTION_MAX)]
    details: msgspec.Raw = protocol.ABSENT


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody decided.

    Attributes:
        by: As Kubernetes knows them.
        through: The door that it came in by.
    """

    decision: Literal["Approved", "Refused"]
    by: str
    comment: str | None
    through: Door


class ApprovalService:
    """What may happen to approvals. One instance a process.

    Args:
        database: The ledger.
        changed: Called after each commit that changed a run.
    """

    def __init__(self, database: Database, changed: Callable[[UUID], None] = lambda _: None) -> None:
        self._database = database
        self._changed = changed

    async def begin(self, connection: Connection, writer: Writer, wait: protocol.Wait) -> None:
        """Write down what a wait asks, in the transaction that begins it.

        Raises:
            InvalidRequestError: It asks nothing.
            PayloadInvalidError: Its details are not JSON that every reader takes for the same.
            PayloadTooLargeError: They are too large for a resource.
        """
        try:
            asked = msgspec.json.decode(bytes(wait.detail) or b"{}", type=_Asked)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"The wait is no approval: {error}", field="waits.detail") from None
        details = bytes(asked.details) or None
        if details is not None:
            payloads.check_value(details, field="details")
            if len(details) > DETAILS_LIMIT:
                raise PayloadTooLargeError(
                    f"details has {len(details)} bytes; the limit is {DETAILS_LIMIT}.",
                    field="details",
                    hint="Say where to read more instead.",
                )
        text = None if details is None else details.decode()
        await approvals.begin(connection, writer.run_id, wait.key, question=_clean(asked.question), details=text)

    async def get(self, project: Project, name: str) -> Approval:
        """Return an approval.

        Raises:
            ApprovalNotFoundError: The project has none of that name.
        """
        # Postgres text has no NUL, and no name has one.
        found = None if "\0" in name else await approvals.by_name(self._database, project.uid, name)
        if found is None:
            raise ApprovalNotFoundError(name, project.namespace)
        return found

    async def list_page(
        self, project: Project, states: frozenset[ApprovalState], *, before: int | None, limit: int
    ) -> tuple[list[Approval], int | None]:
        """Return a page of approvals, newest first, and where the next one begins."""
        found = await approvals.page(self._database, project.uid, states, before=before, limit=limit + 1)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def decide(self, found: Approval, verdict: Verdict) -> Approval:
        """Decide, and let the run go on. To say the same again changes nothing.

        Returns:
            The approval as it is afterwards.

        Raises:
            ApprovalOverError: Somebody decided before, or nothing can be decided any more.
        """
        verdict = Verdict(
            verdict.decision,
            _clean(verdict.by)[:BY_MAX],
            None if verdict.comment is None else _clean(verdict.comment)[:COMMENT_MAX],
            verdict.through,
        )

        async def work(connection: Connection) -> tuple[Approval, list[UUID]]:
            await runs.lock(connection, found.run_id)  # first: whoever ends the wait or the run has it too
            now = await approvals.get(connection, found.run_id, found.key)
            assert now is not None, "approvals are not deleted before their runs"
            if now.state is not ApprovalState.PENDING:
                if (now.state.value, now.by) == (verdict.decision, verdict.by):
                    return now, []
                raise ApprovalOverError(now.name, now.state, now.by, now.over_at)
            return await _write(connection, now, verdict)

        decided, changed = await self._database.transaction(work)
        for run_id in changed:
            self._changed(run_id)
        return decided


async def _write(connection: Connection, now: Approval, verdict: Verdict) -> tuple[Approval, list[UUID]]:
    state = ApprovalState(verdict.decision)
    at = await approvals.decide(connection, now, state, by=verdict.by, comment=verdict.comment, through=verdict.through)
    assert at is not None, "the run is locked, so nobody else decides"
    result: dict[str, Any] = {
        "approved": state is ApprovalState.APPROVED,
        "by": verdict.by,
        "comment": verdict.comment,
        "at": at.astimezone(UTC).isoformat(),
    }
    value = Value(text=msgspec.json.encode(result).decode())
    changed = await waits.settle(connection, [Outcome(run_id=now.run_id, key=now.key, result=value)])
    decided = await approvals.get(connection, now.run_id, now.key)
    assert decided is not None, "it was changed a moment ago"
    return decided, changed


def _clean(text: str) -> str:
    """Return a text that Postgres and a resource can hold: neither has NUL, nor halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
