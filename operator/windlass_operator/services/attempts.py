"""Attempts: claim, keep, end. Called by the runtime routes, the pod observer and the reaper."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from uuid import UUID

import msgspec
import structlog

from windlass import protocol
from windlass_operator import config, metrics
from windlass_operator.domain.errors import AttemptClosedError, LedgerUnavailableError, UnauthorizedError, WindlassError
from windlass_operator.domain.ids import parse_token
from windlass_operator.domain.retry import RetryPolicy, after_failure
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import attempts
from windlass_operator.ledger.attempts import LockedAttempt, Outlook, Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.services import compensation, ends
from windlass_operator.services.claims import Answer, Ask, ClaimService, PodIdentity
from windlass_operator.services.closing import (
    Closed,
    Closing,
    Decide,
    End,
    at_once,
    change_of,
    handed_back,
    or_raise,
    tally,
)
from windlass_operator.services.handover import ms, page_of_compensations, page_of_steps
from windlass_operator.services.recorder import Recorder

log = structlog.get_logger()


class _StillHeldError(Exception):
    """The runner came back between the look at its lease and the lock."""


class AttemptService:
    """What may happen to attempts. One instance a process.

    Args:
        database: The ledger.
        changed: Called after each commit that changed a run, as a wake-up for whoever waits.
        record: Counts, logs and traces what happened.
        begun: Called instead of ``changed`` after a commit that opened an attempt; None: that is.
    """

    def __init__(
        self,
        database: Database,
        changed: Callable[[UUID], None] = lambda _: None,
        record: Recorder | None = None,
        *,
        begun: Callable[[UUID], None] | None = None,
    ) -> None:
        self._database = database
        self._record = record or Recorder()
        self._closing = Closing(database, changed, self._record)
        self.claims = ClaimService(database, self._closing, begun or changed, self._record)
        self.take_next: Callable[[str, Ask], Awaitable[Answer]] = self._take_by_itself
        """Answers the claim that comes with the end of an attempt. Where pods wait for work, with theirs."""

    async def claim(self, pod: PodIdentity, claim_id: str, slots: int) -> list[protocol.ClaimedAttempt]:
        """Open attempts for runs of the pod's key. Empty: nothing may start now. See :meth:`ask`."""
        return (await self.ask(pod, claim_id, slots)).attempts

    async def ask(self, pod: PodIdentity, claim_id: str, slots: int) -> protocol.ClaimResponse:
        """Open attempts for runs of the pod's key, without waiting for any, and say what the pod is to do otherwise.

        Raises:
            PodUnknownError: The operator has not recorded this pod (yet).
            UnauthorizedError: The credential is not the namespace's, or the session not the pod's.
            ForbiddenError: Another claim of this pod was answered before; each pod claims once with its credential.
        """
        pod_id, key = await self.claims.find(pod)
        return (await self.claims.take(key, [Ask(pod_id, claim_id, slots, pod)]))[0].as_response()

    async def withdraw(self, pod: PodIdentity, claim_id: str) -> None:
        """Queue again what a claim took; see :meth:`ClaimService.withdraw`."""
        await self.claims.withdraw(pod, claim_id)

    async def heartbeat(self, request: protocol.HeartbeatRequest) -> protocol.HeartbeatResponse:
        """Extend the leases of all attempts that are open, and say which are not or are to be cancelled."""
        parsed = [parse_token(beat.token) for beat in request.beats]
        beats = [(p[0], p[1], b.memory_bytes) for p, b in zip(parsed, request.beats, strict=True) if p is not None]
        states = await attempts.heartbeat(self._database, beats, config.LEASE)
        answers = []
        for found in parsed:
            beaten = states.get(found[0]) if found else None
            if beaten is None:
                if found is not None:
                    self._record.refused("heartbeat")
                answers.append(protocol.BeatAnswer(open=False, lease_ms=ms(config.LEASE)))
                continue
            answers.append(
                protocol.BeatAnswer(
                    open=True,
                    lease_ms=ms(config.LEASE),
                    cancel=beaten.state is RunState.CANCELLING,
                    run_added_ms=beaten.run_added_ms,
                    attempt_added_ms=beaten.attempt_added_ms,
                )
            )
        return protocol.HeartbeatResponse(answers=answers)

    async def authenticate(self, token: str) -> Writer:
        """Return the attempt of a token.

        Raises:
            UnauthorizedError: The token belongs to no attempt.
        """
        parsed = parse_token(token)
        writer = await attempts.authenticate(self._database, *parsed) if parsed else None
        if writer is None:
            raise UnauthorizedError("The token belongs to no attempt.")
        return writer

    async def complete(self, token: str, request: protocol.CompleteRequest) -> protocol.Outcome:
        """End a run with its result. A repeat is answered as the first was.

        Raises:
            AttemptClosedError: The attempt is closed, and not by this call.
            PayloadInvalidError: Not every reader could read the result. The attempt stays open.
            PayloadTooLargeError: The result belongs into a blob.
        """
        return await self._end(ends.completion(token, request), request.claim)

    async def fail(self, token: str, request: protocol.FailRequest) -> protocol.Outcome:
        """End an attempt that failed; the retry rules decide what becomes of the run.

        Raises:
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        return await self._end(ends.failure(token, request), request.claim)

    async def end_all(
        self, session: str, wanted: Sequence[protocol.End | WindlassError], claim: protocol.NextClaim | None
    ) -> tuple[list[protocol.Outcome | Exception], Answer]:
        """End attempts of one pod together, and make the claim that comes with that.

        Args:
            session: The pod's, for the claim; each end has its own token.
            wanted: Ends; in place of one that could not be read, why.
            claim: What to ask for when they have ended.

        Returns:
            An answer for each, in their order, and what the claim took.

        Raises:
            LedgerUnavailableError: The ledger does not answer. Some may have ended; to repeat is harmless.
        """
        wishes = [ends.wish(one) for one in wanted]
        closed = iter(await self._closing.close_together([wish for wish in wishes if isinstance(wish, End)]))
        answers = [next(closed) if isinstance(wish, End) else wish for wish in wishes]
        new = [answer.attempt for answer in answers if isinstance(answer, Closed) and not answer.repeated]
        # Where all are repeats the runner may have moved on since: what it claimed then must keep its tokens.
        taken = await self._next(new, claim, session) if claim is not None else Answer()
        return [answer.answer if isinstance(answer, Closed) else answer for answer in answers], taken

    async def release(self, token: str, request: protocol.ReleaseRequest) -> protocol.Outcome:
        """Queue the run of a runner that must stop, without using an attempt or a budget.

        Raises:
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        change, outcome, failure = handed_back(request.reason)
        return (await self._closing.close(End(*ends.whose(token), at_once(change), outcome, failure))).answer

    async def lose(
        self,
        attempt_id: UUID,
        *,
        reason: str,
        message: str,
        failure_class: protocol.FailureClass = "infra",
        if_expired: bool = False,
    ) -> bool:
        """Close an attempt that nobody will end any more. Returns False when it was closed already.

        Args:
            attempt_id: The attempt.
            reason: Why it is lost.
            message: The same for people.
            failure_class: Who has to answer for it.
            if_expired: Leave it alone if its lease was extended since it was looked at.
        """
        failure = protocol.Failure(type=reason, message=message, failure_class=failure_class, reason=reason)

        def change(run: LockedRun, attempt: LockedAttempt) -> Change:
            if if_expired and not attempt.expired:
                raise _StillHeldError
            if run.ending is not None:
                return compensation.after_failure(run.ending, attempt, failure)
            policy = run.snapshot.retry if run.snapshot else RetryPolicy()
            return change_of(after_failure(policy, tally(run, attempt), failure_class, reason=reason), attempt, failure)

        try:
            await self._closing.close(End(attempt_id, None, at_once(change), "Lost", failure))
        except (AttemptClosedError, _StillHeldError):
            return False
        return True

    async def _end(self, end: End, claim: protocol.NextClaim | None) -> protocol.Outcome:
        """End an attempt for its runner, and make the claim that comes with that."""
        closed = or_raise((await self._closing.close_together([end]))[0])
        if claim is None or closed.repeated:
            return closed.answer
        taken = await self._next([closed.attempt], claim)
        return msgspec.structs.replace(closed.answer, attempts=taken.attempts, leave=taken.leave)

    async def _next(
        self, ended: Sequence[LockedAttempt], claim: protocol.NextClaim, session: str | None = None
    ) -> Answer:
        """Return what the runner's next claim takes.

        The ends stand, whatever becomes of the claim: a runner that gets nothing here asks by itself.
        """
        of_pool = [attempt for attempt in ended if attempt.pod_id is not None and attempt.reuse]
        if not of_pool or of_pool[0].pod_id is None or of_pool[0].pod_key is None:
            return Answer()
        shown = None if session is None else PodIdentity("", "", session=session)
        ask = Ask(of_pool[0].pod_id, claim.claim_id[:100], claim.slots, shown, first=True)
        try:
            return await self.take_next(of_pool[0].pod_key, ask)
        except WindlassError as error:
            log.info("no next claim with the end of an attempt", attempt=str(of_pool[0].id), error=error.message)
            return Answer()

    async def _take_by_itself(self, pod_key: str, ask: Ask) -> Answer:
        return (await self.claims.take(pod_key, [ask]))[0]

    async def close_after(self, attempt_id: UUID, hashed: bytes, decide: Decide) -> protocol.Outcome:
        """End an attempt as ``decide`` says, which may look into the ledger. A repeat is answered as the first was.

        Raises:
            UnauthorizedError: The token belongs to no attempt.
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        return (await self._closing.close(End(attempt_id, hashed, decide))).answer

    async def reap(self) -> int:
        """Close attempts whose lease ran out; returns how many."""
        lost = 0
        for attempt_id in await attempts.expired(self._database, config.LEASE):
            message = "The runner was silent for longer than its lease; the run goes on in another pod."
            try:
                lost += await self.lose(attempt_id, reason="LeaseExpired", message=message, if_expired=True)
            except LedgerUnavailableError:
                raise
            except Exception:  # one that cannot be closed must not keep the others open
                log.exception("attempt not closed", attempt=str(attempt_id))
        return lost

    async def serve_heartbeats(self, fresh: timedelta = timedelta(0)) -> Outlook:
        """Record that this process serves heartbeats (the ledger's ``heartbeat_service``), and say what there is to do.

        Args:
            fresh: What any process has recorded so short a time ago is not written again.
        """
        outlook = await attempts.serve_heartbeats(self._database, fresh)
        if outlook.gap is not None:
            metrics.HEARTBEAT_GAPS.inc()
            metrics.HEARTBEAT_GAP_SECONDS.inc(outlook.gap)
            log.warning(
                "heartbeats are served again; every open attempt gets one lease more", gap_seconds=round(outlook.gap, 1)
            )
        return outlook

    async def steps_after(self, writer: Writer, after: int) -> protocol.StepsPage:
        """Return a page of the run's finished steps."""

        async def work(connection: Connection) -> protocol.StepsPage:
            return await page_of_steps(connection, writer.run_id, after=after)

        return await self._database.transaction(work)

    async def compensations(self, writer: Writer) -> protocol.CompensationsPage:
        """Return what is left to undo of the writer's run: what was undone is not among it any more."""

        async def work(connection: Connection) -> protocol.CompensationsPage:
            return await page_of_compensations(connection, writer.run_id)

        return await self._database.transaction(work)
