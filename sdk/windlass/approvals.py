"""``wait_for_approval``: ask people, hold no pod meanwhile, and go on with what they decided."""

import json
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from windlass import protocol
from windlass.durations import parse_duration
from windlass.errors import StepError, ValueTooLargeError
from windlass.serialization import encode
from windlass.waits import Pending, begin, only_async, only_sync

QUESTION_MAX: Final = 1024
"""Characters of a question."""
DETAILS_MAX: Final = 16 * 1024
"""Bytes of the details' JSON: they stand in a resource of the cluster."""
_NAME: Final = "approval"


@dataclass(frozen=True)
class Decision:
    """What was decided. A refusal is an answer like any other, and no exception.

    Attributes:
        approved: Yes or no.
        by: Who decided, by the name under which Kubernetes knows them.
        comment: What they said, if anything.
        at: When it was recorded, by the ledger's clock.
    """

    approved: bool
    by: str
    comment: str | None
    at: datetime


def wait_for_approval(
    question: str,
    *,
    timeout: "str | timedelta | None" = None,
    details: Any = None,
    name: str | None = None,
) -> Coroutine[Any, Any, Decision]:
    """Ask people and wait for their decision, for minutes or for months. No pod is held meanwhile.

    The question becomes an Approval resource; whoever may, answers it with kubectl, the command line or the API.

    Args:
        question: Up to 1,024 characters. With the details, the same in every attempt.
        timeout: How long to wait at most, such as ``"7d"``; None waits for ever.
        details: What one has to know in order to decide: anything that JSON can say, at most 16 KiB. Not for secrets.
        name: Of the wait in history; ``approval`` by default.

    Raises:
        WaitTimeoutError: Nobody decided in time.
        StepError: Called in synchronous code (use :func:`wait_for_approval_sync`), inside a step, or with a question or
            name that cannot be one.
        ValueTooLargeError: The details are too large.
        NotInRunError: There is no run here.
    """
    only_async("wait_for_approval")
    pending = _begin(question, timeout, details, name)

    async def wait() -> Decision:
        return _decision(await pending.result())

    return wait()


def wait_for_approval_sync(
    question: str, *, timeout: "str | timedelta | None" = None, details: Any = None, name: str | None = None
) -> Decision:
    """Ask people in synchronous code; see :func:`wait_for_approval`."""
    only_sync("wait_for_approval")
    return _decision(_begin(question, timeout, details, name).result_sync())


def _begin(question: str, timeout: "str | timedelta | None", details: Any, name: str | None) -> Pending:
    if not isinstance(question, str) or not question.strip() or len(question) > QUESTION_MAX:
        raise StepError(
            f"wait_for_approval() needs a question of 1 to {QUESTION_MAX} characters. What is longer goes into details."
        )
    asked: dict[str, Any] = {"question": question}
    if details is not None:
        data = encode(details, what="details of wait_for_approval()")
        if len(data) > DETAILS_MAX:
            raise ValueTooLargeError(
                f"The details of wait_for_approval() have {len(data)} bytes of JSON; the limit is {DETAILS_MAX}. "
                "Say where to read more instead."
            )
        asked["details"] = json.loads(data)
    chosen = _NAME if name is None else name
    if not chosen or len(chosen) > 200 or not chosen.isprintable() or "/" in chosen or "#" in chosen:
        raise StepError(f"{name!r} cannot be a wait's name: use 1 to 200 printable characters without '/' and '#'.")
    due_in = None if timeout is None else parse_duration(timeout)
    return begin(chosen, "approval", arguments=asked, due_in=due_in, target=_NAME, detail=asked)


def _decision(step: protocol.Step) -> Decision:
    told = json.loads(bytes(step.result))
    return Decision(told["approved"], told["by"], told.get("comment"), datetime.fromisoformat(told["at"]))
