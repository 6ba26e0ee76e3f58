"""Saving steps and log lines: the hot path. Steps of many runs share one commit."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError, UnauthorizedError
from windlass_operator.domain.ids import parse_token
from windlass_operator.ledger import logs, runs, steps
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.steps import StepWrite
from windlass_operator.services import payloads
from windlass_operator.services.batch import Batch
from windlass_operator.services.protection import ProtectionService
from windlass_operator.services.recorder import Recorder

_SAVED: Final = {state: metrics.STEPS_SAVED.labels(state) for state in ("running", "succeeded", "failed")}


class StepService:
    """Checkpoints and logs of running attempts.

    Args:
        database: The ledger.
        changed: Called with runs whose resources are to show progress. Not for each step: who is woken by it, in all
            processes, would look for something to do and find nothing.
        protection: Is told of protected steps that begin or end.
        progress_every: Seconds between two notes of one run's progress for its resource.
    """

    def __init__(
        self,
        database: Database,
        changed: Callable[[UUID], None] = lambda _: None,
        *,
        protection: ProtectionService,
        progress_every: float = 1.0,
    ) -> None:
        self._database = database
        self._protection = protection
        self._changed = changed
        self._every = progress_every
        self._batch: Batch[list[StepWrite], UUID | None] = Batch(self._flush)
        self._noted: dict[UUID, asyncio.Task[None]] = {}

    async def save(self, token: str, request: protocol.SaveStepsRequest) -> None:
        """Save steps; they are durable when this returns.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was written.
            InvalidRequestError: A step waits: waits have a route of their own.
            PayloadInvalidError: Not every reader could read a result.
            PayloadTooLargeError: A result belongs into a blob.
        """
        if not request.steps:
            return
        parsed = parse_token(token)
        if parsed is None:
            raise UnauthorizedError("The token belongs to no attempt.")
        for step in request.steps:
            if step.state == "waiting":
                raise InvalidRequestError("A wait begins with POST waits.", field="steps.state")
            result = bytes(step.result)
            if result:
                payloads.check_value(result, field=f"result of step {step.key[:100]!r}")
            if step.compensation:
                payloads.check_value(bytes(step.compensation), field=f"compensation of step {step.key[:100]!r}")
        run_id = await self._batch([StepWrite(*parsed, step=step) for step in request.steps])
        if run_id is None:
            Recorder.refused("steps")
            raise AttemptClosedError
        await self._protection.note(*parsed, request.steps)
        for step in request.steps:
            _SAVED[step.state].inc()
        if run_id not in self._noted:
            self._noted[run_id] = asyncio.create_task(self._note(run_id))

    async def _flush(self, groups: list[list[StepWrite]]) -> list[UUID | None]:
        saved = await steps.save(self._database, [write for group in groups for write in group])
        return [saved.get((group[0].attempt_id, group[0].token_hash)) for group in groups]

    async def _note(self, run_id: UUID) -> None:
        """Make progress visible in the run's resource, now and then; a lost note is made good by the next."""
        try:
            await asyncio.sleep(self._every)
            if await runs.note_progress(self._database, run_id):
                self._changed(run_id)
        finally:
            self._noted.pop(run_id, None)

    async def log(self, token: str, request: protocol.LogsRequest) -> None:
        """Save log lines.

        Raises:
            AttemptClosedError: The attempt was closed more than ten minutes ago, or the token belongs to none.
        """
        parsed = parse_token(token)
        if parsed is None:
            raise UnauthorizedError("The token belongs to no attempt.")
        if request.lines and not await logs.save(self._database, *parsed, request.lines):
            Recorder.refused("logs")
            raise AttemptClosedError
        metrics.LOG_LINES.inc(len(request.lines))
