"""What running code says of itself beside its steps: one saved state, and more time. Fenced by its attempt."""

from typing import Final
from uuid import UUID

from windlass_operator.domain.errors import ValueNotStoredError
from windlass_operator.ledger.database import Database, broken_reference
from windlass_operator.ledger.queries import load
from windlass_operator.ledger.runs import Value

_SQL: Final = load("progress")


async def save_checkpoint(database: Database, attempt_id: UUID, token_hash: bytes, n: int, state: Value) -> bool:
    """Save the state of a run in place of the one before; False where the attempt is closed.

    Args:
        database: The ledger.
        attempt_id: Who saves it.
        token_hash: The same.
        n: Number of the checkpoint within its attempt.
        state: JSON, or a large value that is stored already.

    Raises:
        ValueNotStoredError: It refers to a large value that is not stored.
    """
    parameters = {
        "attempt_id": attempt_id,
        "token_hash": token_hash,
        "n": n,
        "state": state.text,
        "sha256": state.sha256,
        "size": state.size,
    }
    with broken_reference("checkpoint_stored", ValueNotStoredError()):
        rows = await database.fetch(_SQL["save_checkpoint"], parameters)
    if not rows:
        return False
    before = rows[0]["before"]
    if before is not None and before != state.sha256 and rows[0]["saved"]:
        await database.fetch(_SQL["drop_value"], {"run_id": rows[0]["run_id"], "sha256": before})
    return True


async def extend_timeout(database: Database, attempt_id: UUID, token_hash: bytes, added_ms: int) -> bool:
    """Give an attempt and its run this much more running time in all; False where the attempt is closed."""
    parameters = {"attempt_id": attempt_id, "token_hash": token_hash, "added_ms": added_ms}
    return bool(await database.fetch(_SQL["extend_timeout"], parameters))


async def overdue(database: Database) -> list[UUID]:
    """Return runs without an attempt whose ``totalTimeout`` is over."""
    return [row["id"] for row in await database.fetch(_SQL["overdue_runs"])]
