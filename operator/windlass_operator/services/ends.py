"""What runners say of the ends of their attempts, as wishes to close them."""

from datetime import timedelta
from uuid import UUID

from windlass import protocol
from windlass_operator.domain.errors import InvalidRequestError, UnauthorizedError, WindlassError
from windlass_operator.domain.ids import parse_token
from windlass_operator.domain.retry import RetryPolicy, after_failure
from windlass_operator.domain.run_state import RunEvent
from windlass_operator.ledger import steps
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.database import Connection
from windlass_operator.ledger.runs import Change, LockedRun, Value
from windlass_operator.services import compensation, payloads
from windlass_operator.services.closing import End, at_once, change_of, tally


def wish(end: protocol.End | WindlassError) -> End | WindlassError:
    """Return one of many ends, or why it is none."""
    if isinstance(end, WindlassError):
        return end
    try:
        return _one_of_many(end)
    except WindlassError as error:
        return error


def _one_of_many(end: protocol.End) -> End:
    said = end.complete or end.fail
    if said is None or (end.complete is not None and end.fail is not None):
        raise InvalidRequestError("An end has exactly one of `complete` and `fail`.", field="ends")
    if said.claim is not None:
        raise InvalidRequestError("Ends that come together have one claim, beside them.", field="ends.claim")
    if isinstance(said, protocol.CompleteRequest):
        return completion(end.token, said)
    return failure(end.token, said)


def completion(token: str, request: protocol.CompleteRequest) -> End:
    """Return the end of an attempt that has a result.

    Raises:
        UnauthorizedError: The token is none.
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

    return End(*whose(token), at_once(change))


def failure(token: str, request: protocol.FailRequest) -> End:
    """Return the end of an attempt that failed; the retry rules decide what becomes of the run.

    Raises:
        UnauthorizedError: The token is none.
    """
    retry_after = None if request.retry_after_ms is None else timedelta(milliseconds=request.retry_after_ms)

    def change(run: LockedRun, attempt: LockedAttempt) -> Change:
        if run.ending is not None:
            return compensation.after_failure(run.ending, attempt, request.failure, retry_after=retry_after)
        decision = after_failure(
            run.snapshot.retry if run.snapshot else RetryPolicy(),
            tally(run, attempt),
            request.failure.failure_class,
            reason=request.failure.reason or request.failure.type,
            retry_after=retry_after,
            run_timed_out=request.timed_out == "run",
        )
        return change_of(decision, attempt, request.failure)

    async def decide(connection: Connection, run: LockedRun, attempt: LockedAttempt) -> Change:
        if request.rerun:
            await steps.rerun(connection, run.id, request.rerun)
        return change(run, attempt)

    return End(*whose(token), decide, failure=request.failure)


def whose(token: str) -> tuple[UUID, bytes]:
    """Return the attempt's id and the hash of the secret.

    Raises:
        UnauthorizedError: It is no token.
    """
    parsed = parse_token(token)
    if parsed is None:
        raise UnauthorizedError("The token belongs to no attempt.")
    return parsed
