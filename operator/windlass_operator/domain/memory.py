"""Who has to answer for a container that the kernel ended for want of memory: its code, or its node.

Kubernetes says ``OOMKilled`` for both. What the code used at the last heartbeat, against its limit, tells them apart.
"""

from typing import Final, Literal

_NEAR: Final = 0.5
"""Part of the limit from which on the limit is taken for the cause. Low, as a heartbeat may be ten seconds old."""


def who_answers(used: int | None, limit: int | None) -> Literal["user", "infra"]:
    """Return ``user`` if the code reached its limit, ``infra`` if the node ran out of memory.

    Args:
        used: Bytes at the last heartbeat; None if none told.
        limit: Bytes of the container's limit; None without one, when only the node can have been short.
    """
    if limit is None:
        return "infra"
    return "user" if used is None or used >= _NEAR * limit else "infra"


def describe(used: int | None, limit: int | None) -> str:
    """Return both figures as a sentence; nothing where neither is known."""
    parts = [f"the limit is {_mib(limit)}"] if limit else []
    parts += [f"the last heartbeat told of {_mib(used)}"] if used else []
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
