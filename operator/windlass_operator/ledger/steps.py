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

    Of several writes to one key in a batch the last one counts: a step that started and finished within the batch. But
    as in the ledger, nothing overwrites a checkpoint: a request that was held up on its way may come after it.

    Raises:
        ValueNotStoredError: A result refers to a large value that is not stored. Nothing of the batch was written.
    """
    last: dict[tuple[UUID, bytes, str], StepWrite] = {}
    for write in writes:
        key = (write.attempt_id, write.token_hash, write.step.key)
        if key not in last or not _is_history(last[key].step):
            last[key] = write
    parameters = {
        "items": msgspec.json.encode([_as_item(write, order) for order, write in enumerate(last.values())]).decode()
    }
    with broken_reference("step_result_stored", ValueNotStoredError()):
        rows = await database.fetch(_SQL["save_steps"], parameters)
    return {(row["id"], bytes(row["token_hash"])): row["run_id"] for row in rows}


def _is_history(step: Step) -> bool:
    return step.state == "succeeded" or (step.state == "failed" and step.durable)


def _as_item(write: StepWrite, order: int) -> dict[str, object]:
    step = write.step
    item: dict[str, object] = {
        "ord": order,
        "attempt_id": write.attempt_id,
        "token_hash": write.token_hash.hex(),
        "key": step.key,
        "name": step.name,
        "args_hash": step.args_hash,
        "state": step.state,
        "result": bytes(step.result).decode() or None,
        "sha256": step.result_ref.sha256 if step.result_ref else None,
        "size": step.result_ref.size if step.result_ref else None,
        "error": msgspec.json.encode(step.error).decode() if step.error else None,
        "kind": step.kind,
        "durable": step.durable,
        "place": step.place,
        "code_id": step.code_id,
        "replaces": step.replaces,
        "tries": step.tries,
        "age": step.age_ms,
        "duration": step.duration_ms,
    }
    if step.compensation and step.state == "succeeded":  # what did not succeed left nothing to undo
        item["compensation"] = bytes(step.compensation).decode()
    return item


async def finished(connection: Connection, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return finished steps in the order in which they were first saved."""
    parameters = {"run_id": run_id, "after": after, "limit": limit}
    return await (await connection.execute(_SQL["finished_steps"], parameters)).fetchall()


async def rerun(connection: Connection, run_id: UUID, keys: list[str]) -> None:
    """Let the next attempt run these failed steps again instead of failing in the same way."""
    await connection.execute(_SQL["rerun_steps"], {"run_id": run_id, "keys": keys})


async def of_attempt(connection: Connection, run_id: UUID, number: int, *, limit: int) -> list[dict[str, Any]]:
    """Return the steps that an attempt wrote last, running ones included, without their values."""
    parameters = {"run_id": run_id, "number": number, "limit": limit}
    return await (await connection.execute(_SQL["steps_of_attempt"], parameters)).fetchall()


async def list_of_run(database: Database, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return all steps of a run, whatever their state."""
    return await database.fetch(_SQL["list_steps"], {"run_id": run_id, "after": after, "limit": limit})


def decode_error(text: str | None) -> Failure | None:
    """Return the failure that ``step.error`` or ``run.error`` keeps."""
    return None if text is None else msgspec.json.decode(text, type=Failure)
