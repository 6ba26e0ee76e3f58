"""Attempts: claim, keep, end. Called by the runtime routes, the pod observer and the reaper."""

import contextlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from windlass import protocol
from windlass_operator import config, metrics
from windlass_operator.domain.errors import (
    AttemptClosedError,
    ForbiddenError,
    LedgerUnavailableError,
    PodUnknownError,
    UnauthorizedError,
)
from windlass_operator.domain.ids import token_hash
from windlass_operator.domain.retry import Decision, RetryPolicy, Tally, after_failure, after_release
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger import attempts, compensations, runs, steps
from windlass_operator.ledger.attempts import LockedAttempt, Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun, Value
from windlass_operator.services import compensation, payloads
from windlass_operator.services.recorder import Ended, Recorder

log = structlog.get_logger()

_OUTCOMES: Final = {
    RunEvent.SUCCEED: "Succeeded",
    RunEvent.RETRY: "Failed",
    RunEvent.FAIL: "Failed",
    RunEvent.TIME_OUT: "TimedOut",
    RunEvent.CONFIRM_CANCEL: "Cancelled",
    RunEvent.WAIT: "Waiting",
    RunEvent.SUSPEND: "Suspended",
}
_STEPS_PER_PAGE: Final = 500
_STEPS_IN_TRACE: Final = 2000
"""Spans of one attempt's steps at most: a trace is read by people."""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Who asks for work. Exactly one of the two proofs is set."""

    pod_uid: str
    pod_name: str
    secret: str | None = None
    """The namespace's runner credential."""
    vouched: bool = False
    """The Kubernetes API vouched for a token that is bound to this pod."""


Decide = Callable[[Connection, LockedRun, LockedAttempt], Awaitable[Change]]
"""What the end of an attempt leads to, decided when run and attempt are locked."""


class _StillHeldError(Exception):
    """The runner came back between the look at its lease and the lock."""


class AttemptService:
    """What may happen to attempts. One instance a process.

    Args:
        database: The ledger.
        changed: Called after each commit that changed a run, as a wake-up for whoever waits.
        record: Counts, logs and traces what happened.
    """

    def __init__(
        self, database: Database, changed: Callable[[UUID], None] = lambda _: None, record: Recorder | None = None
    ) -> None:
        self._database = database
        self._changed = changed
        self._record = record or Recorder()

    async def claim(self, pod: PodIdentity, claim_id: str, slots: int) -> list[protocol.ClaimedAttempt]:
        """Open attempts for runs of the pod's key. Empty: nothing may start now.

        A repeat with the same claim id returns the same attempts, with new tokens: the first answer was lost.

        Raises:
            PodUnknownError: The operator has not recorded this pod (yet).
            UnauthorizedError: The credential is not the namespace's.
            ForbiddenError: Another claim of this pod was answered before; each pod claims once.
        """
        secrets_by_slot = [secrets.token_urlsafe(24) for _ in range(slots)]
        opened: list[dict[str, object]] = []

        async def work(connection: Connection) -> list[protocol.ClaimedAttempt]:
            opened.clear()
            row = await _pod_of_claim(connection, pod, claim_id)
            held = await attempts.open_of_pod(connection, row["id"]) if row["claim_id"] else []
            tokens: dict[UUID, str] = {}
            for attempt_id, secret in zip(held, secrets_by_slot, strict=False):
                # One that ended since we looked is nobody's any more: no runner must begin what has been done.
                if await attempts.renew_token(connection, attempt_id, token_hash(secret), config.FIRST_LEASE):
                    tokens[attempt_id] = f"{attempt_id}.{secret}"
            # A pod that has claimed claims no more: a repeat that comes after the attempt's end has nobody behind it.
            if not held and row["state"] not in ("Claimed", "Ended"):
                await attempts.use_pod(connection, row["id"], claim_id)
                hashes = [token_hash(secret) for secret in secrets_by_slot]
                ids = await attempts.claim(connection, row["id"], row["pod_key"], hashes, config.FIRST_LEASE)
                tokens = {a: f"{a}.{secret}" for a, secret in zip(ids, secrets_by_slot, strict=False)}
            rows = await attempts.claimed(connection, list(tokens))
            opened.extend([] if held else rows)
            return [await self._describe(connection, found, tokens[found["id"]]) for found in rows]

        taken = await self._database.transaction(work)
        for found in opened:
            self._record.claimed(found)
        for attempt in taken:
            self._changed(UUID(attempt.run_id))
        return taken

    async def withdraw(self, pod: PodIdentity, claim_id: str) -> None:
        """Queue again what a claim took, without using an attempt, and let no claim of this pod take anything more.

        Called by a runner that must stop while its claim is under way: it cannot know whether the claim was answered.

        Raises:
            PodUnknownError, UnauthorizedError, ForbiddenError: As for a claim.
        """

        async def work(connection: Connection) -> list[UUID]:
            row = await _pod_of_claim(connection, pod, claim_id)
            await attempts.withdraw_pod(connection, row["id"], claim_id)
            return await attempts.open_of_pod(connection, row["id"])

        for attempt_id in await self._database.transaction(work):
            with contextlib.suppress(AttemptClosedError):
                change, outcome, failure = _handed_back("PodTerminated")
                await self._close(attempt_id, None, _at_once(change), outcome, failure)

    async def _describe(self, connection: Connection, row: dict[str, object], token: str) -> protocol.ClaimedAttempt:
        snapshot = runs.decode_snapshot(str(row["spec"]))
        run_id = UUID(str(row["run_id"]))
        undoing = row["state"] == RunState.COMPENSATING.value
        # What undoes a step has its own arguments with it, and needs no history.
        page = protocol.StepsPage(steps=[]) if undoing else await page_of_steps(connection, run_id, after=0)
        undo = await page_of_compensations(connection, run_id) if undoing else protocol.CompensationsPage()
        left = None
        if snapshot.timeout is not None and not undoing:  # the run's time may be what it ended for
            left = _ms(snapshot.timeout) + int(str(row["timeout_added_ms"])) - int(str(row["running_ms"]))
            left = max(1, left)
        attempt_timeout = None
        if snapshot.attempt_timeout is not None:
            attempt_timeout = _ms(snapshot.attempt_timeout)
        deadline = None if undoing else row["deadline_ms"]
        state, state_sha256 = row["checkpoint"], row["checkpoint_sha256"]
        payload, sha256 = row["payload"], row["payload_sha256"]
        return protocol.ClaimedAttempt(
            attempt_id=str(row["id"]),
            token=token,
            run_id=str(run_id),
            number=int(str(row["number"])),
            max_attempts=snapshot.retry.max_attempts,
            task=str(row["task"]),
            namespace=str(row["namespace"]),
            entrypoint=snapshot.entrypoint or "",
            source=snapshot.source,
            lease_ms=_ms(config.FIRST_LEASE),
            heartbeat_ms=_ms(config.HEARTBEAT),
            payload=protocol.ABSENT if payload is None else msgspec.Raw(str(payload).encode()),
            payload_ref=_blob_ref(sha256, row["payload_size"]),
            steps=page.steps,
            next_steps=page.next_steps,
            attempt_timeout_ms=attempt_timeout,
            timeout_ms=left,
            added_ms=int(str(row["timeout_added_ms"])),
            deadline_ms=max(1, int(str(deadline))) if deadline is not None else None,
            checkpoint=protocol.ABSENT if state is None else msgspec.Raw(str(state).encode()),
            checkpoint_ref=_blob_ref(state_sha256, row["checkpoint_size"]),
            grace_ms=_ms(config.CANCEL_GRACE),
            traceparent=self._record.place_of(
                row["traceparent"] if isinstance(row["traceparent"], str) else None, UUID(str(row["id"]))
            ),
            run_name=row["resource_name"] if isinstance(row["resource_name"], str) else None,
            tags=list(row["tags"]) if isinstance(row["tags"], list) else [],
            compensating=undoing,
            compensate=undo.compensations,
            more_compensations=undo.more,
        )

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
                answers.append(protocol.BeatAnswer(open=False, lease_ms=_ms(config.LEASE)))
                continue
            answers.append(
                protocol.BeatAnswer(
                    open=True,
                    lease_ms=_ms(config.LEASE),
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
        result = bytes(request.result)
        if result:
            payloads.check_value(result, field="result")
        value = Value(
            text=result.decode() or None,
            sha256=request.result_ref.sha256 if request.result_ref else None,
            size=request.result_ref.size if request.result_ref else None,
        )

        def change(run: LockedRun, attempt: LockedAttempt) -> Change:
            if run.ending is not None:
                return compensation.after_success(run.ending, attempt)
            return Change(event=RunEvent.SUCCEED, result=value, running_ms=attempt.running_ms, attempt=attempt.number)

        return await self._end(token, _at_once(change), outcome=None, failure=None)

    async def fail(self, token: str, request: protocol.FailRequest) -> protocol.Outcome:
        """End an attempt that failed; the retry rules decide what becomes of the run.

        Raises:
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        retry_after = None if request.retry_after_ms is None else timedelta(milliseconds=request.retry_after_ms)

        def change(run: LockedRun, attempt: LockedAttempt) -> Change:
            if run.ending is not None:
                return compensation.after_failure(run.ending, attempt, request.failure, retry_after=retry_after)
            decision = after_failure(
                run.snapshot.retry if run.snapshot else RetryPolicy(),
                _tally(run, attempt),
                request.failure.failure_class,
                reason=request.failure.reason or request.failure.type,
                retry_after=retry_after,
                run_timed_out=request.timed_out == "run",
            )
            return _change(decision, attempt, request.failure)

        async def decide(connection: Connection, run: LockedRun, attempt: LockedAttempt) -> Change:
            if request.rerun:
                await steps.rerun(connection, run.id, request.rerun)
            return change(run, attempt)

        return await self._end(token, decide, outcome=None, failure=request.failure)

    async def release(self, token: str, request: protocol.ReleaseRequest) -> protocol.Outcome:
        """Queue the run of a runner that must stop, without using an attempt or a budget.

        Raises:
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        change, outcome, failure = _handed_back(request.reason)
        return await self._end(token, _at_once(change), outcome=outcome, failure=failure)

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
            return _change(after_failure(policy, _tally(run, attempt), failure_class, reason=reason), attempt, failure)

        try:
            await self._close(attempt_id, None, _at_once(change), outcome="Lost", failure=failure)
        except (AttemptClosedError, _StillHeldError):
            return False
        return True

    async def _end(
        self,
        token: str,
        decide: Decide,
        *,
        outcome: str | None,
        failure: protocol.Failure | None,
    ) -> protocol.Outcome:
        parsed = parse_token(token)
        if parsed is None:
            raise UnauthorizedError("The token belongs to no attempt.")
        return await self._close(*parsed, decide, outcome=outcome, failure=failure)

    async def close_after(self, attempt_id: UUID, hashed: bytes, decide: Decide) -> protocol.Outcome:
        """End an attempt as ``decide`` says, which may look into the ledger. A repeat is answered as the first was.

        Raises:
            UnauthorizedError: The token belongs to no attempt.
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        return await self._close(attempt_id, hashed, decide, outcome=None, failure=None)

    async def _close(
        self,
        attempt_id: UUID,
        hashed: bytes | None,
        decide: Decide,
        outcome: str | None,
        failure: protocol.Failure | None,
    ) -> protocol.Outcome:
        """Close an attempt and write what that leads to, in one transaction."""
        failure_text = None if failure is None else msgspec.json.encode(failure).decode()
        ended: list[Ended] = []

        async def work(connection: Connection) -> protocol.Outcome:
            ended.clear()
            attempt = await attempts.lock(connection, attempt_id, hashed)
            if attempt is None:
                raise UnauthorizedError("The token belongs to no attempt.")
            if attempt.closed:
                # Only what the runner itself was told is repeated: a reaped attempt has no answer.
                if attempt.answer and hashed is not None:
                    return msgspec.json.decode(attempt.answer, type=protocol.Outcome)
                raise AttemptClosedError
            run = await runs.lock(connection, attempt.run_id)
            assert run is not None, "an attempt has a run"
            change = await decide(connection, run, attempt)
            state = await runs.apply(connection, run, change)
            end = Ended(run, attempt, change, state, outcome or _outcome(run, change), failure)
            if self._record.wants_spans(run.traceparent):
                # Read before the attempt closes: what was under way is forgotten then.
                end.steps = await steps.of_attempt(connection, run.id, attempt.number, limit=_STEPS_IN_TRACE)
                end.pod_name = await attempts.pod_name(connection, attempt)
            answer = protocol.Outcome(
                state=state.value, retry_in_ms=None if change.delay is None else _ms(change.delay)
            )
            await attempts.close(
                connection,
                attempt,
                outcome=end.outcome,
                failure=failure_text,
                answer="" if hashed is None else msgspec.json.encode(answer).decode(),
            )
            ended.append(end)
            return answer

        try:
            answer = await self._database.transaction(work)
        except AttemptClosedError:
            if hashed is not None:
                self._record.refused("end")
            raise
        for end in ended:
            self._record.attempt_ended(end)
            self._changed(end.run.id)
        return answer

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

    async def serve_heartbeats(self) -> None:
        """Record that this process serves heartbeats; see the ledger's ``heartbeat_service``."""
        gap = await attempts.serve_heartbeats(self._database)
        if gap is not None:
            metrics.HEARTBEAT_GAPS.inc()
            metrics.HEARTBEAT_GAP_SECONDS.inc(gap)
            log.warning(
                "heartbeats are served again; every open attempt gets one lease more", gap_seconds=round(gap, 1)
            )

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


def _at_once(change: Callable[[LockedRun, LockedAttempt], Change]) -> Decide:
    """Return a decision that needs no more than the two rows."""

    async def decide(_: Connection, run: LockedRun, attempt: LockedAttempt) -> Change:
        return change(run, attempt)

    return decide


async def _pod_of_claim(connection: Connection, pod: PodIdentity, claim_id: str) -> dict[str, Any]:
    """Return the pod's row, locked, once it has proved to be that pod and to make its only claim."""
    row = await attempts.pod_for_claim(connection, pod.pod_uid, pod.pod_name)
    if row is None:
        raise PodUnknownError(f"Pod {pod.pod_name[:253]!r} is not known. Ask again shortly.")
    expected = row["credential_hash"]
    if not pod.vouched and not (
        pod.secret and expected and hmac.compare_digest(bytes(expected), token_hash(pod.secret))
    ):
        raise UnauthorizedError("The runner credential is not the one of the pod's namespace.")
    if row["claim_id"] is not None and row["claim_id"] != claim_id:
        raise ForbiddenError("This pod has claimed already; a pod claims once.")
    return row


def _handed_back(reason: str) -> tuple[Callable[[LockedRun, LockedAttempt], Change], str, protocol.Failure]:
    """Return what closing an attempt for a pod that must stop comes to: decision, outcome, failure."""
    failure = protocol.Failure(type=reason, message="The pod had to stop.", failure_class="infra")

    def change(run: LockedRun, attempt: LockedAttempt) -> Change:
        return _change(after_release(_tally(run, attempt)), attempt, failure, keep_error=False)

    return change, "Released", failure


async def page_of_steps(connection: Connection, run_id: UUID, *, after: int) -> protocol.StepsPage:
    """Return finished steps up to the size that rides along with a claim, and a cursor if there are more."""
    rows = await steps.finished(connection, run_id, after=after, limit=_STEPS_PER_PAGE)
    page: list[protocol.Step] = []
    size = 0
    for row in rows:
        step = step_from_row(row)
        if step.error is not None:
            step.error.traceback = None  # for people; the code makes its own
        size += len(bytes(step.result)) + len(msgspec.json.encode(step.error)) + len(step.key) + 200
        if page and size > protocol.STEPS_IN_CLAIM_LIMIT:
            return protocol.StepsPage(steps=page, next_steps=str(after))
        page.append(step)
        after = row["position"]
    return protocol.StepsPage(steps=page, next_steps=str(after) if len(rows) == _STEPS_PER_PAGE else None)


async def page_of_compensations(connection: Connection, run_id: UUID) -> protocol.CompensationsPage:
    """Return what is left to undo, newest first, up to the size that rides along with a claim."""
    rows = await compensations.not_undone(connection, run_id, limit=_STEPS_PER_PAGE)
    page: list[protocol.Compensation] = []
    size = 0
    for row in rows:
        size += len(row["result"] or "") + len(row["compensation"]) + len(row["key"]) + 200
        if page and size > protocol.STEPS_IN_CLAIM_LIMIT:
            break
        page.append(_compensation_from_row(row))
    return protocol.CompensationsPage(compensations=page, more=bool(rows) and len(page) < rows[0]["n"])


def _compensation_from_row(row: dict[str, Any]) -> protocol.Compensation:
    return protocol.Compensation(
        key=row["key"],
        name=row["name"],
        compensation=msgspec.Raw(row["compensation"].encode()),
        result=protocol.ABSENT if row["result"] is None else msgspec.Raw(row["result"].encode()),
        result_ref=_blob_ref(row["result_sha256"], row["result_size"]),
    )


def step_from_row(row: dict[str, object]) -> protocol.Step:
    """Return a step as it travels."""
    result, sha256 = row["result"], row["result_sha256"]
    return protocol.Step(
        key=str(row["key"]),
        name=str(row["name"]),
        args_hash=str(row["args_hash"]),
        state=row["state"],  # type: ignore[arg-type]  # the schema's CHECK holds it to the four
        kind=row["kind"],  # type: ignore[arg-type]  # as it was saved
        run_id=str(row["child_id"]) if row["child_id"] else None,
        durable=bool(row["durable"]),
        tries=int(str(row["tries"])),
        result=protocol.ABSENT if result is None else msgspec.Raw(str(result).encode()),
        result_ref=_blob_ref(sha256, row["result_size"]),
        error=steps.decode_error(row["error"] if isinstance(row["error"], str) else None),
        place=row["place"] if isinstance(row["place"], int) else None,
        code_id=row["code_id"] if isinstance(row["code_id"], str) else None,
        replaces=bool(row["replaced"]),
    )


def _blob_ref(sha256: object, size: object) -> protocol.BlobRef | None:
    return protocol.BlobRef(sha256=str(sha256), size=int(str(size))) if sha256 else None


def parse_token(token: str) -> tuple[UUID, bytes] | None:
    """Return the attempt's id and the hash of the secret, or None for something that is no token."""
    attempt_id, _, secret = token.partition(".")
    try:
        return (UUID(attempt_id), token_hash(secret)) if secret else None
    except ValueError:
        return None


def _outcome(run: LockedRun, change: Change) -> str:
    """Return how an attempt ended that this change follows from."""
    if run.ending is None:
        return _OUTCOMES[change.event]
    return "Failed" if change.compensation_failures else compensation.OUTCOME


def _tally(run: LockedRun, attempt: LockedAttempt) -> Tally:
    left = None
    if run.snapshot is not None and run.snapshot.timeout is not None:
        left = run.snapshot.timeout + timedelta(milliseconds=run.timeout_added_ms - run.running_ms - attempt.running_ms)
    return Tally(
        user_failures=run.user_failures,
        infra_failures=run.infra_failures,
        cancelling=run.state is RunState.CANCELLING,
        running_time_left=left,
        overdue=run.overdue,
    )


def _change(
    decision: Decision, attempt: LockedAttempt, failure: protocol.Failure, *, keep_error: bool = True
) -> Change:
    return Change(
        event=decision.event,
        reason=decision.reason,
        message=failure.message[:1024],
        delay=decision.delay,
        user_failures=decision.user_failures,
        infra_failures=decision.infra_failures,
        running_ms=attempt.running_ms,
        failure_class=failure.failure_class,
        error=msgspec.json.encode(failure).decode() if keep_error else None,
        attempt=attempt.number,
    )


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
