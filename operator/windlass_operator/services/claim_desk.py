"""Where runners wait for work: one claimer for each pod key of a process, and one transaction for all who wait.

A runner whose question finds nothing is parked in memory. It costs nothing there but its share of one short look a
second. When a run of its key is committed, here or (by the coalesced notification) in another process, the claimer
takes it for who has waited longest. A wake-up is a hint: the look finds whatever nobody was told of.
"""

import asyncio
import contextlib
import hmac
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from windlass import protocol
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.ids import token_hash
from windlass_operator.services.claims import Answer, Ask, ClaimService, PodIdentity
from windlass_operator.services.loops import end_if_cancelled

log = structlog.get_logger()

_EVERY: Final = timedelta(seconds=1)
_REMEMBERED: Final = 10_000
"""Pods, and keys, that are kept in mind; beyond that the ledger is asked again."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A pod whose session was seen to be its own: only while it waits for work is that taken for good."""

    pod_id: UUID
    pod_key: str
    session_hash: bytes
    slots: int


@dataclass(eq=False, slots=True)
class _Waiter:
    """A question that waits for its answer."""

    ask: Ask
    waits: bool
    """It is not answered before something comes; else with the first look."""
    looked_at: bool
    """Its pod's row has been looked at since it asked, or nothing in it can matter yet."""
    answer: "asyncio.Future[Answer]"
    empty: Answer
    """What it is told if nothing comes."""
    checked: bool = False
    """Since it asked, the ledger has shown that nothing is open that it took when it was asked before. Until then it is
    not told that there is nothing: its runner would never ask for that again."""
    busy: bool = False
    """A transaction is looking for work for it."""
    gone: bool = False
    """Nobody waits for the answer any more."""


class ClaimDesk:
    """Answers runners that ask for work. One instance a process.

    Args:
        claims: Opens attempts.
        every: How long a run may wait at most that nobody was told of; jittered.
    """

    def __init__(self, claims: ClaimService, *, every: timedelta = _EVERY) -> None:
        self._claims = claims
        self._every = every.total_seconds()
        self._keys: dict[str, _Claimer] = {}
        self._known: dict[str, _Known] = {}

    def wake(self, keys: Mapping[str, int]) -> dict[str, int]:
        """So many runs of these keys may start now, by what this process has committed; 0: later.

        Returns:
            Those keys of which not everybody has a runner that waits here: others should hear of them.
        """
        return {key: runs for key, runs in keys.items() if key not in self._keys or not self._keys[key].wake(runs)}

    def look(self, keys: Mapping[str, int] | None) -> None:
        """Runs of these keys may start, by what another process has committed; None: of any."""
        for key in self._keys if keys is None else keys:
            if key in self._keys:
                self._keys[key].wake(0)

    async def ask(
        self, pod: PodIdentity, claim_id: str, slots: int, *, wait: timedelta, gone: "asyncio.Task[None] | None" = None
    ) -> protocol.ClaimResponse:
        """Answer a runner when there is work for it, or when it has waited.

        Args:
            pod: Who asks.
            claim_id: Names the question.
            slots: Attempts at most.
            wait: How long the runner waits for the answer.
            gone: Is done when nobody waits for the answer any more. What it would have got is given to others.

        Raises:
            PodUnknownError, UnauthorizedError, ForbiddenError: See :meth:`ClaimService.take`.
            LedgerUnavailableError: The ledger does not answer.
        """
        known = self._recognised(pod)
        pod_id, key = (known.pod_id, known.pod_key) if known else await self._claims.find(pod)
        empty = Answer(again=True, slots=known.slots) if known else Answer()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waits = wait > timedelta(0)
        waiter = _Waiter(Ask(pod_id, claim_id, slots, pod), waits, waits and known is not None, future, empty)
        answer = await self._answer(key, waiter, wait, gone)
        session = answer.session or pod.session
        if session is not None and answer.again and answer.error is None:
            self._remember(pod, _Known(pod_id, key, token_hash(session), answer.slots))
        return answer.as_response()

    async def next(self, pod_key: str, ask: Ask) -> Answer:
        """Answer the question that comes with the end of an attempt, without waiting for work.

        Nobody has asked it before: where there is nothing, that is said without a query.

        Raises:
            WindlassError: As :meth:`ask`.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(ask, waits=False, looked_at=True, answer=future, empty=Answer(again=True))
        answer = await self._answer(pod_key, waiter, timedelta(0), None)
        if answer.error is not None:
            raise answer.error
        return answer

    async def _answer(self, key: str, waiter: _Waiter, wait: timedelta, gone: "asyncio.Task[None] | None") -> Answer:
        claimer = self._keys.get(key)
        if claimer is None:
            if len(self._keys) >= _REMEMBERED:
                self._keys = {k: c for k, c in self._keys.items() if c.waiting}
            claimer = self._keys[key] = _Claimer(self._claims, key, self._every)
        if not claimer.park(waiter):
            return waiter.empty
        try:
            ends: list[asyncio.Future[Any]] = [waiter.answer] if gone is None else [waiter.answer, gone]
            timeout = wait.total_seconds() if waiter.waits else None
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            waiter.waits = False
            if not _is_done(gone) and (waiter.busy or claimer.must_check(waiter)):
                await waiter.answer  # its time is over, but it may be about to get something, or have something
        finally:
            if not waiter.answer.done():
                claimer.leave(waiter)
        answer = waiter.answer.result() if waiter.answer.done() else waiter.empty
        if _is_done(gone):
            claimer.nobody_has(answer)
        return answer

    def _recognised(self, pod: PodIdentity) -> _Known | None:
        known = self._known.get(pod.pod_uid) if pod.session is not None else None
        if known is None or not hmac.compare_digest(known.session_hash, token_hash(pod.session or "")):
            return None
        return known

    def _remember(self, pod: PodIdentity, known: _Known) -> None:
        self._known.pop(pod.pod_uid, None)
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[pod.pod_uid] = known

    async def close(self) -> None:
        """Turn away all who wait: this process ends."""
        for claimer in self._keys.values():
            await claimer.close()


@dataclass(eq=False, slots=True)
class _Claimer:
    """Claims for all who wait for the runs of one pod key. Its task lives as long as anybody waits."""

    claims: ClaimService
    key: str
    every: float
    waiting: dict[_Waiter, None] = field(default_factory=dict)
    """In the order in which they came."""
    told: int = 0
    """Runs that may start, as far as was heard since the last transaction."""
    due: bool = False
    """A look has found something that everybody may have a part of."""
    look_at: float = 0.0
    """When to look next, by the loop's clock. Until then nothing is known that could be taken."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    timed: bool = False
    """The next look comes no later than the next run becomes due."""
    task: "asyncio.Task[None] | None" = None
    returns: "set[asyncio.Task[None]]" = field(default_factory=set)

    def wake(self, runs: int) -> bool:
        """Runs may start: so many, or, if that is 0, an unknown number. Returns whether there is room for all here."""
        room = sum(waiter.ask.slots for waiter in self.waiting if not (waiter.busy or waiter.gone)) - self.told
        self.told += runs
        if not runs:
            self.look_at = 0.0
        self.news.set()
        return 0 < runs <= room

    def park(self, waiter: _Waiter) -> bool:
        """Let somebody wait; False: there is nothing, and they do not wait."""
        if self._is_empty() and waiter.looked_at and not waiter.waits:
            return False
        for other in self.waiting:
            if (other.ask.pod_id, other.ask.claim_id) == (waiter.ask.pod_id, waiter.ask.claim_id):
                self._give(other, replace(other.empty))  # the same question again: who asked before has given up
                break
        self.waiting[waiter] = None
        if not self._is_empty():
            waiter.looked_at = False
        self.news.set()
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run(), name=f"claims of {self.key}")
        return True

    def must_check(self, waiter: _Waiter) -> bool:
        """Whether it is too early to tell somebody that there is nothing. If so, the ledger is asked at once."""
        if waiter.checked or waiter.answer.done():
            return False
        waiter.looked_at = False
        self.news.set()
        return True

    def leave(self, waiter: _Waiter) -> None:
        """Nobody waits for this answer any more."""
        waiter.gone = True
        if not waiter.busy:
            self.waiting.pop(waiter, None)

    async def close(self) -> None:
        """End the task and turn away who waits."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, *self.returns, return_exceptions=True)
        self._fail(list(self.waiting), LedgerUnavailableError("This process ends. Ask again."))

    def _is_empty(self) -> bool:
        """Whether it is known, as well as it ever is, that there is nothing to take."""
        return not self.told and not self.due and self.look_at > asyncio.get_running_loop().time()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting:
            self.news.clear()
            batch = self._batch()
            if batch:
                await self._take(batch)
            elif not self.timed or self.look_at <= loop.time():
                await self._look()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.look_at - loop.time()):
                        await self.news.wait()
            end_if_cancelled()

    def _batch(self) -> list[_Waiter]:
        """Return those for whom to claim now: who is new, and as many others as there are runs."""
        runs = len(self.waiting) if self.due else self.told
        batch = []
        for waiter in self.waiting:
            if not waiter.looked_at:
                batch.append(waiter)
            elif runs > 0:
                batch.append(waiter)
                runs -= waiter.ask.slots
        return batch

    async def _take(self, batch: list[_Waiter]) -> None:
        tried, self.told, self.due = self.due, 0, False
        self._pause()  # before: whoever tells of something meanwhile is heard
        for waiter in batch:
            waiter.busy = True
        try:
            answers = await self.claims.take(self.key, [waiter.ask for waiter in batch])
        except Exception as error:
            self._fail(batch, error)
            return
        finally:
            for waiter in batch:
                waiter.busy = False
        for waiter, answer in zip(batch, answers, strict=True):
            waiter.looked_at, waiter.checked, waiter.empty = True, True, answer
            waiter.ask = replace(waiter.ask, session=answer.session)
            if answer.settled or waiter.gone or not waiter.waits:
                self._give(waiter, answer)
        if not any(answer.attempts for answer in answers):
            self.timed = tried  # what is due and was not taken is held by a queue: no reason to look at once
        elif any(answer.more for answer in answers):
            self.look_at = 0.0

    async def _look(self) -> None:
        waiting = list(self.waiting)
        self._pause()
        self.timed = True
        try:
            outlook = await self.claims.look(self.key, [waiter.ask for waiter in waiting])
        except WindlassError as error:
            log.info("nobody can look for work", pod_key=self.key, error=error.message)
            return
        except Exception:  # they are told at the end of their wait, and ask again
            log.exception("no look for work", pod_key=self.key)
            return
        for waiter in waiting:
            waiter.checked = True
        for position in outlook.news:
            waiting[position].looked_at = waiting[position].checked = False
        if outlook.due_in is None:
            return
        if outlook.due_in <= 0:
            self.due = True
        else:
            loop = asyncio.get_running_loop()
            self.look_at = min(self.look_at, loop.time() + outlook.due_in + 0.001)

    def _pause(self) -> None:
        """Look again after the usual time, if nobody tells of anything before."""
        jitter = random.uniform(0.8, 1.0)  # noqa: S311 - so that replicas do not look together
        self.look_at = asyncio.get_running_loop().time() + self.every * jitter

    def _give(self, waiter: _Waiter, answer: Answer) -> None:
        self.waiting.pop(waiter, None)
        if not waiter.gone and not waiter.answer.done():
            waiter.answer.set_result(answer)
        else:
            self.nobody_has(answer)

    def nobody_has(self, answer: Answer) -> None:
        """Hand back what an answer took that nobody receives.

        A single-use pod has no other claim: it repeats this one, and gets the same.
        """
        if answer.attempts and answer.again:
            task = asyncio.create_task(self._give_back(answer))
            self.returns.add(task)
            task.add_done_callback(self.returns.discard)

    async def _give_back(self, answer: Answer) -> None:
        try:
            await self.claims.give_back(answer)
        except WindlassError as error:  # its lease runs out
            log.info("nobody's attempt not handed back", error=error.message)

    def _fail(self, waiters: list[_Waiter], error: Exception) -> None:
        for waiter in waiters:
            self.waiting.pop(waiter, None)
            if not waiter.gone and not waiter.answer.done():
                waiter.answer.set_exception(error)


def _is_done(task: "asyncio.Task[None] | None") -> bool:
    return task is not None and task.done()
