"""Tasks as they are now, however many ask: one read of the API server for all who asked before it began."""

from collections.abc import Awaitable, Callable

from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.services.batch import Batches

ReadTask = Callable[[str, str], Awaitable[TaskSnapshot | None]]
"""Reads a Task (namespace, name) live; None if there is none. Raises TaskInvalidError for one that cannot be run."""


class LiveTasks:
    """Reads Tasks live, and shares a read only with those who asked before it was sent.

    Who asks while a read is under way gets the answer of the next one. The answer of the first would be older than the
    question: a Task that was applied between the two would not be seen by who applied it.

    Args:
        read: Reads one Task.
    """

    def __init__(self, read: ReadTask) -> None:
        self._read = read
        self._asked: Batches[tuple[str, str], None, TaskSnapshot | WindlassError | None] = Batches(self._answer)

    async def __call__(self, namespace: str, name: str) -> TaskSnapshot | None:
        """Return the Task, as it was at some moment after this was called; None if there is none.

        Raises:
            WindlassError: As of ``read``.
        """
        found = await self._asked((namespace, name), None)
        if isinstance(found, WindlassError):
            raise found
        return found

    async def _answer(self, key: tuple[str, str], asked: list[None]) -> list[TaskSnapshot | WindlassError | None]:
        answer: TaskSnapshot | WindlassError | None
        try:
            answer = await self._read(*key)
        except WindlassError as error:  # everybody's answer: asked again for each it would be the same
            answer = error
        return [answer] * len(asked)
