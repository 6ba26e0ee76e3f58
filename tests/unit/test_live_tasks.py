"""A read of a Task is shared only with those who asked before it was sent."""

import asyncio

import pytest

from tests.support.world import a_task
from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.services.live_tasks import LiveTasks


class Cluster:
    """Answers when the test says so, with the Task as it is when the read comes in."""

    def __init__(self) -> None:
        self.reads = 0
        self.priority = 0
        self.broken: TaskInvalidError | None = None
        self.answer = asyncio.Event()

    async def read(self, namespace: str, name: str) -> TaskSnapshot:
        self.reads += 1
        found = a_task(priority=self.priority)
        await self.answer.wait()
        if self.broken is not None:
            raise self.broken
        return found


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_during_a_read_gets_a_later_one() -> None:
    cluster = Cluster()
    tasks = LiveTasks(cluster.read)
    early = [asyncio.create_task(tasks("shop", "order")) for _ in range(3)]
    await _turn()
    cluster.priority = 7  # applied while the read is on its way back
    late = [asyncio.create_task(tasks("shop", "order")) for _ in range(3)]
    await _turn()
    cluster.answer.set()

    assert {found.priority for found in await asyncio.gather(*early) if found} == {0}
    assert {found.priority for found in await asyncio.gather(*late) if found} == {7}
    assert cluster.reads == 2


async def test_different_tasks_do_not_wait_for_each_other() -> None:
    cluster = Cluster()
    tasks = LiveTasks(cluster.read)
    asked = [asyncio.create_task(tasks("shop", name)) for name in ("order", "refund")]
    await _turn()

    assert cluster.reads == 2
    cluster.answer.set()
    await asyncio.gather(*asked)


async def test_an_error_is_everybodys_who_shared_the_read() -> None:
    cluster = Cluster()
    cluster.broken = TaskInvalidError("no image", field="spec.image")
    tasks = LiveTasks(cluster.read)
    asked = [asyncio.create_task(tasks("shop", "order")) for _ in range(3)]
    cluster.answer.set()

    for one in asked:
        with pytest.raises(TaskInvalidError):
            await one
    assert cluster.reads == 1


async def test_who_hangs_up_takes_nothing_from_the_others() -> None:
    cluster = Cluster()
    tasks = LiveTasks(cluster.read)
    gone, stays = (asyncio.create_task(tasks("shop", "order")) for _ in range(2))
    await _turn()
    gone.cancel()
    await _turn()
    cluster.answer.set()

    assert await stays is not None
    assert cluster.reads == 1
