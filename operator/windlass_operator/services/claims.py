"""Claims: pods that ask for work get the attempts that are opened for them, all pods of a key in one transaction.

A claim id names one question of a pod. Whoever asks the same again is answered with what the question took and what of
that is still open, never with more: the first answer was lost.
"""

import contextlib
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from windlass import protocol
from windlass_operator import config
from windlass_operator.domain.errors import (
    AttemptClosedError,
    ForbiddenError,
    PodUnknownError,
    UnauthorizedError,
    WindlassError,
)
from windlass_operator.domain.ids import new_id, token_hash
from windlass_operator.ledger import claims, queues
from windlass_operator.ledger.claims import LockedPod, Outlook, Place
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.closing import Closing, End, at_once, handed_back
from windlass_operator.services.handover import describe
from windlass_operator.services.recorder import Recorder

_SPENT: Final = "session"
"""In place of a pod's claim id once its session is in use. The credential that came before is worth nothing any more: a
first claim that was held up on its way takes nobody's session away."""
_NO_HASH: Final = bytes(32)
"""Compared with where there is none, so that an answer takes as long whether a pod has a session or not."""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Who asks for work. Exactly one of the proofs is set."""

    pod_uid: str
    pod_name: str
    secret: str | None = None
    """The namespace's runner credential."""
    vouched: bool = False
    """The Kubernetes API vouched for a token that is bound to this pod."""
    session: str | None = None
    """From the answer to an earlier claim of a pod that takes one run after the other."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for work."""

    pod_id: UUID
    claim_id: str
    slots: int
    """Attempts at most."""
    identity: PodIdentity | None = None
    """What the pod shows; None where the token of one of its attempts has proven who asks."""
    session: str | None = None
    """The session that this question was given before, while it waited."""
    first: bool = False
    """Nobody can have asked it before. What its claim took all the same was taken by a repeat, which came before it."""


@dataclass(slots=True)
class Answer:
    """What becomes of a question."""

    attempts: list[protocol.ClaimedAttempt] = field(default_factory=list)
    again: bool = False
    leave: bool = False
    session: str | None = None
    slots: int = 1
    over: bool = False
    """Nothing comes any more, however long the question waits."""
    more: bool = False
    """More runs may start than were taken, as far as its transaction has seen."""
    error: WindlassError | None = None
    """Why it is refused; the others of its batch are answered all the same."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return bool(self.attempts) or self.leave or self.over or self.error is not None

    def as_response(self) -> protocol.ClaimResponse:
        """Return what the runner is told.

        Raises:
            WindlassError: The question is refused.
        """
        if self.error is not None:
            raise self.error
        return protocol.ClaimResponse(
            attempts=self.attempts, again=self.again, leave=self.leave, session=self.session, slots=self.slots
        )


class ClaimService:
    """Opens attempts. One instance a process.

    Args:
        database: The ledger.
        closing: Ends attempts that nobody took.
        begun: Called after each commit that opened an attempt, with its run.
        record: Counts, logs and traces what happened.
    """

    def __init__(self, database: Database, closing: Closing, begun: Callable[[UUID], None], record: Recorder) -> None:
        self._database = database
        self._closing = closing
        self._begun = begun
        self._record = record

    async def find(self, pod: PodIdentity) -> tuple[UUID, str]:
        """Return the id and the key of a pod that asks for work. What it shows is looked at when it is answered.

        Raises:
            PodUnknownError: The operator has not recorded this pod (yet).
            UnauthorizedError: It shows a session, and pods that nobody knows have none.
        """
        found = await claims.find_pod(self._database, pod.pod_uid, pod.pod_name)
        if found is not None:
            return found
        if pod.session is not None:
            raise UnauthorizedError("The session is not one of this pod's.")
        raise PodUnknownError(f"Pod {pod.pod_name[:253]!r} is not known. Ask again shortly.")

    async def look(self, pod_key: str, asks: Sequence[Ask]) -> Outlook:
        """Return what there is for those who wait for the runs of a key."""
        return await claims.look(self._database, pod_key, [(ask.pod_id, ask.claim_id) for ask in asks])

    async def take(self, pod_key: str, asks: Sequence[Ask]) -> list[Answer]:
        """Open attempts for pods of one key; who comes first in ``asks`` gets the run that is to start first.

        A repeat is answered with the same attempts, with new tokens. An answer says why it is empty.
        """
        opened: list[dict[str, Any]] = []
        tried: set[UUID] = set()

        async def work(connection: Connection) -> list[Answer]:
            n = sum(ask.slots for ask in asks)
            locked = await claims.lock_all(connection, pod_key, [(ask.pod_id, ask.claim_id) for ask in asks], n)
            batch = _Batch(asks, locked.pods, tried)
            batch.sort_out(locked.held)
            renewed = set()
            if batch.held:
                tokens = [(attempt_id, token_hash(batch.secrets[attempt_id])) for attempt_id in batch.held]
                # One that ended since we looked is nobody's any more: no runner must begin what has been done.
                renewed = await claims.renew_tokens(connection, tokens, config.FIRST_LEASE)
            free = await queues.admit(connection, locked.queues) if batch.asks_for_runs else {}
            runs = sum(min(free[row["id"]], row["due"]) for row in locked.queues if row["id"] in free)
            places = batch.places(runs)
            tried.update(place.id for place in places)
            new = await claims.take(connection, pod_key, free, places, config.FIRST_LEASE) if places else []
            opened[:] = new
            more = runs > len(new) or any(row["due"] >= n for row in locked.queues)
            await batch.note(connection, {row["pod_id"] for row in new}, more=more)
            took = {**{i: index for i, index in batch.held.items() if i in renewed}, **batch.taken(new)}
            for row in [*(await claims.claimed(connection, list(renewed)) if renewed else []), *new]:
                token = f"{row['id']}.{batch.secrets[row['id']]}"
                batch.answers[took[row["id"]]].attempts.append(await describe(connection, row, token, self._record))
            return batch.answers

        answers = await self._database.transaction(work)
        for row in opened:
            self._record.claimed(row)
        for answer in answers:
            for attempt in answer.attempts:
                self._begun(UUID(attempt.run_id))
        return answers

    async def give_back(self, answer: Answer) -> None:
        """Queue again what an answer took that nobody received, without using an attempt.

        Whoever has asked again meanwhile has it with other tokens, and keeps it.
        """
        for attempt in answer.attempts:
            attempt_id, _, secret = attempt.token.partition(".")
            with contextlib.suppress(AttemptClosedError, UnauthorizedError):
                change, outcome, failure = handed_back("RunnerGone")
                await self._closing.close(End(UUID(attempt_id), token_hash(secret), at_once(change), outcome, failure))

    async def withdraw(self, pod: PodIdentity, claim_id: str) -> None:
        """Queue again what a claim took, without using an attempt, and let no claim of this pod take anything more.

        Called by a runner that must stop while its claim is under way: it cannot know whether the claim was answered.
        What other claims of the pod took stays with it.

        Raises:
            PodUnknownError, UnauthorizedError, ForbiddenError: As for a claim.
        """
        pod_id, _ = await self.find(pod)

        async def work(connection: Connection) -> list[UUID]:
            row = (await claims.lock_pods(connection, [pod_id]))[pod_id]
            _require(row, Ask(pod_id, claim_id, 1, pod))
            await claims.withdraw_pod(connection, pod_id, claim_id)
            rows = await claims.attempts_of_pods(connection, [(pod_id, claim_id)])
            return [held["id"] for held in rows if _is_of(row, held, claim_id)]

        for attempt_id in await self._database.transaction(work):
            with contextlib.suppress(AttemptClosedError):
                change, outcome, failure = handed_back("PodTerminated")
                await self._closing.close(End(attempt_id, None, at_once(change), outcome, failure))


class _Batch:
    """Questions of pods that are locked, on the way to their answers. Knows no statement.

    Args:
        asks: The questions.
        pods: The rows of their pods.
        tried: Attempts that an earlier try of this transaction meant to open. It may have opened them: the word of its
            commit was lost.
    """

    def __init__(self, asks: Sequence[Ask], pods: dict[UUID, LockedPod], tried: AbstractSet[UUID]) -> None:
        self._asks = asks
        self._pods = pods
        self._tried = tried
        self.answers = [Answer() for _ in asks]
        self.held: dict[UUID, int] = {}
        """Open attempts that a question took when it was asked before, and the question's position."""
        self.secrets: dict[UUID, str] = {}
        """Of the tokens, by attempt."""
        self._wants = [0 for _ in asks]
        self._open: Counter[UUID] = Counter()
        self._places: dict[UUID, int] = {}
        self._notes: dict[UUID, tuple[UUID, str, bytes | None]] = {}
        for index, (ask, answer) in enumerate(zip(asks, self.answers, strict=True)):
            try:
                self._admit(index, _require(pods.get(ask.pod_id), ask))
            except WindlassError as error:
                answer.error = error

    def _admit(self, index: int, pod: LockedPod) -> None:
        ask, answer = self._asks[index], self.answers[index]
        answer.leave, answer.slots = pod.leaves, pod.slots
        if ask.identity is None:
            return
        if ask.identity.session is not None:
            if pod.claim_id != _SPENT:
                self._notes[pod.id] = (pod.id, _SPENT, None)
            return
        if not pod.reuse:
            if pod.claim_id is None and not pod.leaves:
                self._notes[pod.id] = (pod.id, ask.claim_id, None)
            return
        answer.session = ask.session or secrets.token_urlsafe(32)
        hashed = token_hash(answer.session)
        if ask.session is not None and not hmac.compare_digest(pod.session_hash or _NO_HASH, hashed):
            raise UnauthorizedError("The same claim was made again, and has another session.")
        if pod.session_hash != hashed:
            self._notes[pod.id] = (pod.id, ask.claim_id, hashed)

    def sort_out(self, rows: Sequence[dict[str, Any]]) -> None:
        """Find which questions were asked before, and how much the others may take."""
        self._open = Counter(row["pod_id"] for row in rows if row["open"])
        promised = self._open.copy()
        for index, (ask, answer) in enumerate(zip(self._asks, self.answers, strict=True)):
            if answer.error is not None:
                continue
            pod = self._pods[ask.pod_id]
            before = [r for r in rows if r["pod_id"] == pod.id and (_is_of(pod, r, ask.claim_id) or _took(r, ask))]
            # The runner has what a repeat took, with its tokens: to renew them for who comes late would take it away.
            self.held |= {r["id"]: index for r in before if r["open"] and (not ask.first or r["id"] in self._tried)}
            # A claim that has taken something takes no more: a repeat after the attempt's end has nobody behind it.
            answer.over = bool(before) or (not pod.reuse and pod.state in ("Claimed", "Ended"))
            if answer.over or pod.leaves:
                continue
            self._wants[index] = ask.slots if not pod.reuse else max(0, min(ask.slots, pod.slots - promised[pod.id]))
            promised[pod.id] += self._wants[index]
        self.secrets = {attempt_id: secrets.token_urlsafe(24) for attempt_id in self.held}

    @property
    def asks_for_runs(self) -> bool:
        """Whether any question may take something."""
        return any(self._wants)

    def places(self, runs: int) -> list[Place]:
        """Return attempts to open for so many runs: one for each question in turn, until none wants more."""
        places: list[Place] = []
        for turn in range(max(self._wants, default=0)):
            for index, ask in enumerate(self._asks):
                if len(places) == runs:
                    return places
                if self._wants[index] > turn:
                    attempt_id, secret = new_id(), secrets.token_urlsafe(24)
                    self.secrets[attempt_id] = secret
                    self._places[attempt_id] = index
                    places.append(Place(attempt_id, token_hash(secret), ask.pod_id, ask.claim_id))
        return places

    def taken(self, opened: Sequence[dict[str, Any]]) -> dict[UUID, int]:
        """Return the attempts that were opened, each with the position of its question."""
        return {row["id"]: self._places[row["id"]] for row in opened}

    async def note(self, connection: Connection, took: set[UUID], *, more: bool) -> None:
        """Write what has become of the pods, as far as it is news; and what the answers say of it."""
        if self._notes:
            await claims.note_claims(connection, list(self._notes.values()))
        pods = {ask.pod_id: self._pods[ask.pod_id] for ask, _ in self._accepted()}
        news = [i for i in took if pods[i].state != "Claimed" or pods[i].idle]
        if news:
            await claims.pods_claimed(connection, news)
        for key in {pods[i].pod_key for i in news if pods[i].state != "Claimed" and not pods[i].reuse}:
            connection.may_start(key, 0)  # one pod fewer is on its way, or ready: another one may be started
        kept = {i: p for i, p in pods.items() if p.reuse or p.ahead}
        idle = [i for i, p in kept.items() if not p.idle and not p.leaves and not self._open[i] and i not in took]
        if idle:
            await claims.pods_idle(connection, idle)
        for ask, answer in self._accepted():
            pod, answer.more = pods[ask.pod_id], more
            # A single-use pod that was started ahead asks until it has taken something.
            answer.again = not pod.leaves and (pod.reuse or (pod.ahead and not answer.over and pod.id not in took))

    def _accepted(self) -> list[tuple[Ask, Answer]]:
        return [(ask, a) for ask, a in zip(self._asks, self.answers, strict=True) if a.error is None]


def _require(pod: LockedPod | None, ask: Ask) -> LockedPod:
    """Return the pod's row, once it has proved to be that pod, and to make its only claim if it shows a credential."""
    shown = ask.identity
    if pod is None:
        gone = UnauthorizedError if shown is not None and shown.session is not None else PodUnknownError
        raise gone("The pod is not known any more.")
    if shown is None:
        return pod
    if shown.session is not None:
        if not hmac.compare_digest(pod.session_hash or _NO_HASH, token_hash(shown.session)):
            raise UnauthorizedError("The session is not one of this pod's.")
        return pod
    expected = pod.credential_hash
    if not shown.vouched and not (
        shown.secret and expected and hmac.compare_digest(bytes(expected), token_hash(shown.secret))
    ):
        raise UnauthorizedError("The runner credential is not the one of the pod's namespace.")
    if pod.claim_id is not None and pod.claim_id != ask.claim_id:
        raise ForbiddenError("This pod has claimed already; a pod claims once.")
    return pod


def _is_of(pod: LockedPod, row: dict[str, Any], claim_id: str) -> bool:
    """Whether an open attempt of a pod is what this claim took. A single-use pod has one claim."""
    return bool(row["open"]) and (not pod.reuse or row["claim_id"] == claim_id)


def _took(row: dict[str, Any], ask: Ask) -> bool:
    """Whether this claim took an attempt, which may have ended."""
    return bool(row["claim_id"] == ask.claim_id)
