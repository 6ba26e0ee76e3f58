"""Steps: the checkpoints. Saved in batches of many attempts, each row fenced by its own attempt."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass.protocol import Failure, Step
from windlass_operator.domain.errors import ValueNotStoredError
from windlass_operator.ledger.database import Connection, Database, broken_reference
from windlass_operator.ledger.queries import load

_SQL: Final = load("steps")


@dataclass(frozen=True, slots=True)
class StepWrite:
    """One step to save, and the attempt that saves it."""

    attempt_id: UUID
    token_hash: bytes
    step: Step


async def save(database: Database, writes: list[StepWrite]) -> dict[tuple[UUID, bytes], UUID]:
    """Save steps and return the run of each attempt (with its token) that was open; the others wrote nothing.

    Of several writes to one key in a batch the last one counts: a step that started and finished within the batch.

    Raises:
        ValueNotStoredError: A result refers to a large value that is not stored. Nothing of the batch was written.
    """
    last = {(w.attempt_id, w.token_hash, w.step.key): w for w in writes}
    items = list(last.values())
    parameters = {
        "attempt_ids": [w.attempt_id for w in items],
        "token_hashes": [w.token_hash for w in items],
        "keys": [w.step.key for w in items],
        "names": [w.step.name for w in items],
        "args_hashes": [w.step.args_hash for w in items],
        "states": [w.step.state for w in items],
        "results": [bytes(w.step.result).decode() or None for w in items],
        "sha256s": [w.step.result_ref.sha256 if w.step.result_ref else None for w in items],
        "sizes": [w.step.result_ref.size if w.step.result_ref else None for w in items],
        "errors": [msgspec.json.encode(w.step.error).decode() if w.step.error else None for w in items],
        "ages": [w.step.age_ms for w in items],
        "durations": [w.step.duration_ms for w in items],
    }
    with broken_reference("step_result_stored", ValueNotStoredError()):
        rows = await database.fetch(_SQL["save_steps"], parameters)
    return {(row["id"], bytes(row["token_hash"])): row["run_id"] for row in rows}


async def finished(connection: Connection, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return finished steps in the order in which they were first saved."""
    parameters = {"run_id": run_id, "after": after, "limit": limit}
    return await (await connection.execute(_SQL["finished_steps"], parameters)).fetchall()


async def list_of_run(database: Database, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return all steps of a run, whatever their state."""
    return await database.fetch(_SQL["list_steps"], {"run_id": run_id, "after": after, "limit": limit})


def decode_error(text: str | None) -> Failure | None:
    """Return the failure that ``step.error`` or ``run.error`` keeps."""
    return None if text is None else msgspec.json.decode(text, type=Failure)
