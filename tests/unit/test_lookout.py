"""One look at all that may have to be done, and who is woken by it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from tests.support.eventually import eventually
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.ledger.attempts import Outlook
from windlass_operator.services.lookout import Lookout

_NOTHING = Outlook(gap=None, due_in=None, undelivered=False)


class Watched:
    """A lookout whose looks are scripted, and what it has woken."""

    def __init__(self, *looks: Outlook | Exception, every: float = 0.01) -> None:
        self.looks = list(looks)
        self.asked = 0
        self.rung: list[float] = []
        self.delivered = 0
        self.lookout = Lookout(self._look, ring=self._ring, deliver=self._deliver, every=timedelta(seconds=every))

    async def _look(self, fresh: timedelta) -> Outlook:
        self.asked += 1
        found = self.looks.pop(0) if self.looks else _NOTHING
        if isinstance(found, Exception):
            raise found
        return found

    def _ring(self) -> None:
        self.rung.append(asyncio.get_running_loop().time())

    def _deliver(self) -> None:
        self.delivered += 1

    async def until(self, done: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.lookout.run())

        async def seen() -> bool:
            return done()

        await eventually(seen, lambda found: found)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_where_there_is_nothing_to_do_nobody_is_woken() -> None:
    watched = Watched()
    await watched.until(lambda: watched.asked > 5)
    assert (watched.rung, watched.delivered) == ([], 0)


async def test_each_is_woken_for_what_it_does() -> None:
    due = Outlook(gap=None, due_in=-3.0, undelivered=False)
    watched = Watched(due)
    await watched.until(lambda: len(watched.rung) == 1)
    assert watched.delivered == 0
    watched = Watched(Outlook(gap=None, due_in=None, undelivered=True))
    await watched.until(lambda: watched.delivered == 1)
    assert watched.rung == []


async def test_a_ledger_that_is_away_is_asked_again() -> None:
    watched = Watched(LedgerUnavailableError("away"), OSError("odd"), Outlook(gap=None, due_in=0.0, undelivered=False))
    await watched.until(lambda: len(watched.rung) == 1)


async def test_the_bell_rings_when_the_first_timer_is_over_and_not_before() -> None:
    watched = Watched(every=10)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for seconds in (0.3, 0.05, 0.2):
        watched.lookout.timer_set(seconds)
    await eventually(lambda: _number(watched), lambda number: number == 1)
    assert 0.05 <= watched.rung[0] - began < 0.2
    watched.lookout.timer_set(0.01)  # who has rung rings again
    await eventually(lambda: _number(watched), lambda number: number == 2)


async def test_a_timer_that_is_far_away_is_left_to_a_later_look() -> None:
    watched = Watched(every=0.01)
    watched.lookout.timer_set(3600.0)
    assert watched.lookout._bell is None


async def _number(watched: Watched) -> int:
    return len(watched.rung)
