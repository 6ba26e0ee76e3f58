"""What the end of a child means: pure, so that every way to end is a line of a test."""

import signal
from typing import Final, Literal

import msgspec

from windlass import protocol
from windlass_runner.memory import Container

Left = Literal["", "suspended", "stopped"]
"""How a child has left code that has not ended: the run waits and the API knows, or the pod ends and nobody knows."""

Result = tuple[protocol.CompleteRequest | None, protocol.FailRequest | None, Left]

MOST_RESULT: Final = 8 * protocol.INLINE_LIMIT
"""Bytes that a child may report: a result of 64 KiB, or a failure whose texts are escaped."""


def encode(complete: protocol.CompleteRequest | None, fail: protocol.FailRequest | None, *, left: Left = "") -> bytes:
    """Return what a child writes at its end. None of the three: its attempt was closed."""
    return msgspec.json.encode([complete, fail, left])


def decode(data: bytes) -> Result | None:
    """Return what a child wrote, or None when that is nothing or not ours: user code can write to any descriptor."""
    try:
        result: Result = msgspec.json.decode(data, type=Result)
    except msgspec.DecodeError:
        return None
    return result


def timed_out(which: str, limit_ms: int | None) -> protocol.Failure:
    """Return the failure of a ``run`` or an ``attempt`` that ran too long, or of a run that is over its ``total``."""
    if which == "total":
        reason, message = "TotalTimedOut", "The run had not ended within totalTimeout, waits included."
    else:
        reason, message = "TimedOut", f"The {which} used its {limit_ms} ms."
    return protocol.Failure(type=reason, message=message, failure_class="timeout", reason=reason)


def not_within_grace() -> protocol.Failure:
    """Return the failure of a cancelled attempt that we had to end."""
    return protocol.Failure(type="Cancelled", message="The code did not end within the grace period.")


def not_taken(said: str) -> protocol.Failure:
    """Return the failure of an attempt whose result the API refuses, in its words."""
    reason = "ResultNotSerializable"
    message = f"The result was refused: {said}"
    return protocol.Failure(type=reason, message=message, failure_class="permanent", reason=reason)


def crash(code: int, before: Container, after: Container, used: int | None) -> protocol.Failure:
    """Return the failure of a child that ended without a result.

    Args:
        code: Its exit code, negative for a signal.
        before: The container's memory when the attempt began.
        after: The same at its end.
        used: Bytes that the code used at the last heartbeat.
    """
    if code == -signal.SIGKILL and after.kills > before.kills:
        return out_of_memory(after, used)
    if code == -signal.SIGKILL:
        message = f"The code's process was ended by SIGKILL{_memory(after, used)}."
    elif code < 0:
        message = f"The code's process was ended by {signal_name(-code)}."
    else:
        message = f"The code's process ended with exit code {code} and no result."
    return protocol.Failure(type="ChildCrashed", message=message)


def shared_crash(code: int, before: Container, after: Container, used: int | None, count: int) -> protocol.Failure:
    """Return the failure of each of several attempts whose common process ended: nobody knows which has ended it.

    Args:
        code: As for :func:`crash`.
        before: As for :func:`crash`.
        after: As for :func:`crash`.
        used: As for :func:`crash`.
        count: Attempts in the process.
    """
    if code == -signal.SIGKILL and after.kills > before.kills:
        how = f"was ended by the kernel for want of memory{_memory(after, used)}"
    else:
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    message = f"The process that {count} runs shared {how}. Which of them ended it is not known."
    return protocol.Failure(type="WorkerCrashed", message=message, failure_class="infra")


def zygote_died(
    code: int, before: Container, after: Container, used: int | None, *, imported: bool
) -> protocol.Failure:
    """Return the failure of an attempt whose zygote ended: the process that imports the code and starts the child.

    Args:
        code: As for :func:`crash`.
        before: As for :func:`crash`.
        after: As for :func:`crash`.
        used: As for :func:`crash`.
        imported: Whether it had done with importing: before that, only the code's own module can have ended it.
    """
    if code == -signal.SIGKILL and after.kills > before.kills:
        return out_of_memory(after, used)
    how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    if imported:
        message = f"The process that starts the code {how}."
        return protocol.Failure(type="ZygoteDied", message=message, failure_class="infra")
    message = f"The process {how} while it imported the module."
    reason = "EntrypointImportFailed"
    # A module that ends its process does so again; a signal may have come from elsewhere.
    kind: protocol.FailureClass = "user" if code < 0 else "permanent"
    return protocol.Failure(type=reason, message=message, failure_class=kind, reason=reason)


def out_of_memory(after: Container, used: int | None) -> protocol.Failure:
    """Return the failure of code that the kernel ended for want of memory: the code's own, or the node's.

    Args:
        after: The container's memory at the end.
        used: Bytes that the code used at the last heartbeat.
    """
    if after.reached_limit(used):
        message = (
            "The code used more memory than spec.resources.limits.memory allows"
            f"{_memory(after, used)}. Raise the limit, or use less."
        )
        return protocol.Failure(type="OutOfMemory", message=message, reason="OutOfMemory")
    message = f"The node ran out of memory, and the kernel ended the code's process{_memory(after, used)}."
    return protocol.Failure(type="NodeOutOfMemory", message=message, failure_class="infra")


def _memory(container: Container, used: int | None) -> str:
    """Return what is known of memory, as a clause."""
    said = []
    if used:
        said.append(f"{_mib(used)} at the last heartbeat")
    if container.limit:
        said.append(f"the limit is {_mib(container.limit)}")
    return f" ({', '.join(said)})" if said else ""


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def signal_name(number: int) -> str:
    """Return a signal's name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
