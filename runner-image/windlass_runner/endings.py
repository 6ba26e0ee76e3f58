"""Telling the API what came of an attempt: the rest of its log, the report, and perhaps what comes next."""

from typing import Any, Final, NamedTuple

import msgspec

from windlass import protocol
from windlass_runner import exit_codes, outcome
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.log_sender import AttemptLog

_FLUSH: Final = 5.0
"""Seconds that the report of an attempt waits for its log."""
LAST_FLUSH: Final = 30.0
"""Seconds that the pod waits for the rest of it, after the report."""


class Ending(NamedTuple):
    """The end of an attempt, as far as it is decided here.

    Attributes:
        path: Route of the report; empty where there is nothing to report.
        message: The report.
        code: Exit code of a runner that ends with this attempt.
        patience: Seconds that the log may take before anything else happens.
    """

    path: str = ""
    message: Any = None
    code: int = exit_codes.DONE
    patience: float = _FLUSH


NOTHING_TO_TELL: Final = Ending(code=exit_codes.LEASE_LOST)
"""Somebody else has closed the attempt."""
SUSPENDED: Final = Ending(patience=LAST_FLUSH)
"""The run waits; the child has told the API itself."""


class Told(NamedTuple):
    """What the API said to a report.

    Attributes:
        code: Exit code of a runner that ends with this attempt.
        outcome: The API's answer to a report with a claim.
        repeated: The report was sent more than once, so what its claim took may stand in an answer that was lost.
        problem: Why the API has no report.
    """

    code: int
    outcome: protocol.Outcome | None = None
    repeated: bool = False
    problem: str = ""


def tell(
    api: ApiClient,
    token: str,
    log: AttemptLog,
    ending: Ending,
    patience: float,
    claim: protocol.NextClaim | None = None,
) -> Told:
    """Send an attempt's log and report, and wait for an API that is away.

    Args:
        api: The calling thread's.
        token: The attempt's.
        log: The attempt's.
        ending: What is reported.
        patience: Seconds that an unreachable API is waited for.
        claim: Asked for in the same call.
    """
    log.flush(api, ending.patience)
    if not ending.path:
        return Told(ending.code)
    path, message = ending.path, ending.message
    if claim is not None and path != "/release":
        message.claim = claim
    try:
        body, path = _send(api, path, message, token, patience)
    except Refused as refused:
        if refused.code == protocol.AttemptClosed:
            return Told(exit_codes.LEASE_LOST, repeated=api.repeated)
        return Told(exit_codes.API_UNREACHABLE, repeated=api.repeated, problem=str(refused))
    except Unreachable as error:
        return Told(exit_codes.API_UNREACHABLE, repeated=True, problem=str(error))
    repeated = api.repeated
    code = exit_codes.USER_FAILURE if path == "/fail" else exit_codes.DONE
    return Told(code, msgspec.json.decode(body, type=protocol.Outcome) if claim else None, repeated)


def _send(api: ApiClient, path: str, message: Any, token: str, patience: float) -> tuple[bytes, str]:
    """Send the report and return answer and path. A result that the API does not take is reported as a failure."""
    try:
        return api.call(path, message, token=token, patience=patience), path
    except Refused as refused:
        if path != "/complete" or refused.code == protocol.AttemptClosed:
            raise
        # Told, not lost with this process: the run would be tried again, and refused again.
        failed = protocol.FailRequest(failure=outcome.not_taken(str(refused)), claim=message.claim)
        return api.call("/fail", failed, token=token, patience=patience), "/fail"
