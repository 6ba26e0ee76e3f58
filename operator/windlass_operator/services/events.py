"""Events: sent by anybody of a project, and taken by the runs that wait for them.

An event reaches every run that was created before it came and that has, now or later, a wait which it matches. Who
sends it gives it to the waits that are there, after the commit; a loop in every API replica does the same for what a
sender left behind; and a wait that begins later finds it by itself.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain import matching
from windlass_operator.domain.errors import InvalidRequestError, PayloadTooLargeError, WindlassError
from windlass_operator.domain.ids import new_id
from windlass_operator.domain.project import Project
from windlass_operator.ledger import events, runs, waits
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.events import Sent, Waiting
from windlass_operator.ledger.runs import Value
from windlass_operator.ledger.waits import Outcome
from windlass_operator.services import payloads
from windlass_operator.services.attempts import AttemptService

log = structlog.get_logger()

RUNS_AT_ONCE: Final = 200
"""Runs that are locked in one transaction."""
_EVENTS_AT_ONCE: Final = 20
_PAGES: Final = (10, 200)
"""Events that a beginning wait looks at: most find the first one, some look through many."""
_SENDER_STAYS: Final = 2.0
"""Seconds for which a sender gives his event to waits; the rest is left to the loop."""
_FORGET_AT_ONCE: Final = 1000


class EventIdInUseError(WindlassError):
    """An id that stands for an event of another name."""

    code, http_status = "EventIdInUse", 409

    def __init__(self, event_id: str, name: str) -> None:
        super().__init__(
            f"The id {event_id[:200]!r} stands for an event {name[:200]!r}.",
            field="id",
            hint="An id is for one event of the namespace: take another.",
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an event."""

    id: str
    runs: int
    """Runs that have taken it so far."""
    deduplicated: bool = False
    """It was sent before with the same id."""


class EventService:
    """Sends events, and gives them to waits. One instance a process.

    Args:
        database: The ledger.
        attempts: Knows whose token it is that sends from within a run.
        changed: Called after each commit that changed a run.
        keep: How long events are kept, and with them their ids.
    """

    def __init__(
        self,
        database: Database,
        attempts: AttemptService,
        changed: Callable[[UUID], None] = lambda _: None,
        *,
        keep: timedelta = timedelta(days=30),
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._changed = changed
        self._keep = keep

    async def send(self, project: Project, name: str, payload: Any, event_id: str | None = None) -> Accepted:
        """Send an event from outside of any run.

        Args:
            project: To whose runs.
            name: What they wait for.
            payload: JSON, as ``payloads.parse`` returned it.
            event_id: A word for this event: a repeat finds the first one, whatever its payload is.

        Raises:
            PayloadTooLargeError: The payload has more than 64 KiB.
            EventIdInUseError: The id stands for an event of another name.
        """
        text = payloads.encoded(payload, field="payload", limit=protocol.BODY_LIMIT)
        _check_size(text)

        async def enter(connection: Connection) -> int:
            return await runs.ensure_project(connection, project.uid, project.namespace)

        return await self._send(enter, name, text.decode(), event_id or str(new_id()), "rest")

    async def send_from_run(self, token: str, request: protocol.SendEventRequest) -> protocol.EventAccepted:
        """Send an event from a step of a run, whose id makes a repeat harmless.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was sent.
            PayloadInvalidError, PayloadTooLargeError, EventIdInUseError: As for :meth:`send`.
        """
        text = bytes(request.payload) or b"null"
        _check_size(text)
        payloads.parse(text)
        writer = await self._attempts.authenticate(token)

        async def enter(connection: Connection) -> int:
            return await events.project_of_open(connection, writer)

        sent = await self._send(enter, request.name, text.decode(), request.id, "run")
        return protocol.EventAccepted(id=sent.id, runs=sent.runs)

    async def _send(
        self, enter: Callable[[Connection], Awaitable[int]], name: str, payload: str, event_id: str, source: str
    ) -> Accepted:
        async def work(connection: Connection) -> tuple[int, Sent, bool]:
            project_id = await enter(connection)
            await events.lock_name(connection, project_id, name)
            sent = await events.add(connection, project_id, name, event_id, payload)
            if sent is not None:
                return project_id, sent, True
            first = await events.by_id(connection, project_id, event_id)
            assert first is not None, "the conflict waited for its commit, and kept events are not deleted so soon"
            if first.name != name:
                raise EventIdInUseError(event_id, first.name)
            return project_id, first, False

        project_id, sent, new = await self._database.transaction(work)
        if new:
            metrics.EVENTS_SENT.labels(source).inc()
        try:
            await self.deliver(project_id, name, until=time.monotonic() + _SENDER_STAYS)
            reached = await events.count_taken(self._database, sent.seq)
        except WindlassError as error:  # it is sent; the loop gives it to whom it is for
            log.warning("an event waits to be delivered", error=error.message)
            reached = 0
        return Accepted(sent.id, reached, deduplicated=not new)

    async def begin(self, connection: Connection, writer: Writer, wait: protocol.Wait) -> None:
        """A wait for an event begins: it takes the first one that is there for it, or can be seen by every sender.

        One that can never be over, because it names no event or asks for too much, fails: the code is told where it
        waits, and its other waits are not held up.
        """
        try:
            name, detail = check_name(wait.target, field="waits.target"), _checked(bytes(wait.detail))
        except WindlassError as error:
            failure = protocol.Failure(type=error.code, message=error.message, step=wait.key)
            await waits.settle_begun(connection, Outcome(run_id=writer.run_id, key=wait.key, failure=failure))
            return
        word = matching.selector(detail.wanted)
        project_id = await events.note_selector(connection, writer.run_id, wait.key, word)
        looking = _Looking(connection, writer.run_id, project_id, name, detail)
        # The long look comes before the lock: what is sent meanwhile has a higher number and is seen by the second one.
        found = await looking.take_first(wait.key)
        if found is None:
            await events.lock_name(connection, project_id, name)
            found = await looking.take_first(wait.key)
        if found is not None:
            metrics.EVENTS_DELIVERED.inc()
            await waits.settle_begun(connection, _outcome(writer.run_id, wait.key, found))

    async def deliver_due(self) -> timedelta | None:
        """Give events to waits which their senders have left behind. Called in a loop by every API replica."""
        errors: list[Exception] = []
        for project_id, name in await events.undelivered_names(self._database):
            try:
                await self.deliver(project_id, name, skip_locked=True)
            except Exception as error:  # raised below: one name must not hold up the others
                errors.append(error)
        if errors:
            raise errors[0]
        return None

    async def forget(self) -> None:
        """Delete what is older than events are kept, all of it, in batches."""
        while await events.forget(self._database, self._keep, limit=_FORGET_AT_ONCE) == _FORGET_AT_ONCE:
            pass

    async def deliver(
        self, project_id: int, name: str, *, until: float | None = None, skip_locked: bool = False
    ) -> bool:
        """Give the events of a name to the waits that are there. Returns whether nothing is left to do.

        Each wait gets the first event that it matches, so it does not matter who delivers which one first.

        Args:
            project_id: The project.
            name: Of the events.
            until: When to stop, by the process's monotonic clock.
            skip_locked: Leave runs alone that somebody else has in hand.
        """
        while kept := await events.undelivered(self._database, project_id, name, limit=_EVENTS_AT_ONCE):
            offered = [_Offer(sent, payloads.parse(sent.payload.encode())) for sent in kept]
            words = {word for offer in offered for word in matching.selectors(offer.payload)}
            after, whole = (events.NO_RUN, ""), True
            while page := await events.candidates(
                self._database, project_id, name, words, after=after, limit=RUNS_AT_ONCE
            ):
                after = (page[-1].run_id, page[-1].key)
                wanted = {want.run_id for want in map(_Want, page) if any(map(want.takes, offered))}
                if wanted:
                    whole = await self._give(project_id, name, offered, sorted(wanted), skip_locked) and whole
                if len(page) < RUNS_AT_ONCE:
                    break
                if until is not None and time.monotonic() > until:
                    return False
            if not whole:
                return False
            await events.mark_delivered(self._database, [sent.seq for sent in kept])
        return True

    async def _give(
        self, project_id: int, name: str, offered: Sequence["_Offer"], run_ids: list[UUID], skip_locked: bool
    ) -> bool:
        """End waits of these runs, in one transaction. Returns whether none was left out."""

        async def work(connection: Connection) -> tuple[list[UUID], bool, int]:
            locked = await waits.lock_runs(connection, run_ids, skip_locked=skip_locked)
            found = [_Want(wait) for wait in await events.waits_of(connection, project_id, name, locked)]
            taken = await events.taken(connection, locked, [offer.sent.seq for offer in offered])
            chosen = _choose(found, offered, taken)
            ours = await events.take(connection, [(w.run_id, offer.sent.seq, w.key) for w, offer in chosen])
            given = [(wait, offer) for wait, offer in chosen if (wait.run_id, offer.sent.seq) in ours]
            outcomes = [_outcome(wait.run_id, wait.key, offer.sent) for wait, offer in given]
            changed = await waits.settle(connection, outcomes)
            # What a run took at this moment for a wait that it begins leaves another wait without its event.
            return changed, len(locked) == len(run_ids) and len(given) == len(chosen), len(given)

        changed, whole, given = await self._database.transaction(work)
        metrics.EVENTS_DELIVERED.inc(given)
        for run_id in changed:
            self._changed(run_id)
        return whole


@dataclass(frozen=True, slots=True)
class _Detail:
    """What a wait is for."""

    wanted: Any
    """What a payload has to contain; None: nothing."""
    lookback: timedelta

    def matches(self, payload: Any) -> bool:
        return self.wanted is None or matching.contains(payload, self.wanted)


def _detail(text: bytes) -> _Detail:
    try:
        read = msgspec.json.decode(text or b"{}", type=protocol.EventDetail)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"The detail of a wait for an event: {error}", field="waits.detail") from None
    wanted = payloads.parse(bytes(read.match) or b"null", field="match")
    return _Detail(wanted, timedelta(milliseconds=read.lookback_ms))


def _checked(text: bytes) -> _Detail:
    """Return the detail of a wait that begins.

    Raises:
        InvalidRequestError, PayloadInvalidError: It is none, or what it has to match is too much.
    """
    detail = _detail(text)
    size = matching.size(detail.wanted)
    if size > matching.MOST_WANTED:
        raise InvalidRequestError(
            f"A match has {matching.MOST_WANTED} values at most; this one has {size}. Match what identifies the event, "
            "and look at the rest in the code.",
            field="waits.detail.match",
        )
    return detail


@dataclass(frozen=True, slots=True)
class _Offer:
    """An event that looks for waits."""

    sent: Sent
    payload: Any


class _Want:
    """A wait that looks for an event."""

    def __init__(self, wait: Waiting) -> None:
        self.run_id, self.key = wait.run_id, wait.key
        self._detail = _detail(wait.detail.encode())
        self._since = wait.created_at - self._detail.lookback

    def takes(self, offer: _Offer) -> bool:
        return self._since <= offer.sent.sent_at and self._detail.matches(offer.payload)


def _choose(
    found: Sequence[_Want], offered: Sequence[_Offer], taken: set[tuple[UUID, int]]
) -> list[tuple[_Want, _Offer]]:
    """Give each wait, the eldest of a run first, the first event that is for it and that its run has not taken."""
    used = set(taken)
    chosen = []
    for want in found:
        for offer in offered:
            if (want.run_id, offer.sent.seq) not in used and want.takes(offer):
                used.add((want.run_id, offer.sent.seq))
                chosen.append((want, offer))
                break
    return chosen


class _Looking:
    """A beginning wait's look through the events that are kept. Called again, it goes on where it ended."""

    def __init__(self, connection: Connection, run_id: UUID, project_id: int, name: str, detail: _Detail) -> None:
        self._connection, self._run_id, self._project_id = connection, run_id, project_id
        self._name, self._detail = name, detail
        self._after = 0

    async def take_first(self, key: str) -> Sent | None:
        """Take the first event that is for the wait, or return None at the end."""
        limit, more = _PAGES
        while True:
            page = await events.kept(
                self._connection,
                self._run_id,
                self._project_id,
                self._name,
                after=self._after,
                lookback=self._detail.lookback,
                limit=limit,
            )
            for sent in page:
                self._after = sent.seq
                if self._detail.matches(payloads.parse(sent.payload.encode())) and await events.take(
                    self._connection, [(self._run_id, sent.seq, key)]
                ):
                    return sent
            if len(page) < limit:
                return None
            limit = more


def _outcome(run_id: UUID, key: str, sent: Sent) -> Outcome:
    event = protocol.Event(
        name=sent.name,
        id=sent.id,
        payload=msgspec.Raw(sent.payload.encode()),
        sent_at=sent.sent_at.astimezone(UTC).isoformat(),
    )
    return Outcome(run_id=run_id, key=key, result=Value(text=msgspec.json.encode(event).decode()))


def check_name(name: str | None, *, field: str) -> str:
    """Return the name of an event.

    Raises:
        InvalidRequestError: It is none.
    """
    if not name or len(name) > protocol.EVENT_NAME_MAX or not re.fullmatch(protocol.EVENT_NAME, name):
        raise InvalidRequestError(
            f"An event's name has 1 to {protocol.EVENT_NAME_MAX} characters, and no control characters.", field=field
        )
    return name


def _check_size(text: bytes) -> None:
    if len(text) > protocol.INLINE_LIMIT:
        raise PayloadTooLargeError(
            f"The payload of an event has {len(text)} bytes; the limit is {protocol.INLINE_LIMIT}.",
            field="payload",
            hint="Put the data into an object store and send its key.",
        )
