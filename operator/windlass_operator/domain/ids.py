"""Identifiers: made here, so that a row's id is known before it is written and a repeated write finds it."""

import hashlib
import json
import os
import threading
import time
from typing import Any, Final
from uuid import UUID

_lock: Final = threading.Lock()
_last = 0
"""The time and the random bits of the newest id of this process."""


def new_id() -> UUID:
    """Return a version 7 UUID (RFC 9562): ordered by time, so an index on it grows at its right edge.

    Each is greater than all that this process has returned before, in the same millisecond too and when the clock is
    set back: what is made one after the other is listed, queued and answered in that order.
    """
    global _last  # noqa: PLW0603 - the order is one of the whole process
    milliseconds = time.time_ns() // 1_000_000
    entropy = int.from_bytes(os.urandom(10), "big")
    with _lock:
        _last = max((milliseconds & 0xFFFFFFFFFFFF) << 74 | entropy >> 6, _last + 1 + (entropy & 0xFFFFFFFF))
        free = _last
    time_bits, high, low = free >> 74, free >> 62 & 0xFFF, free & (1 << 62) - 1
    return UUID(int=time_bits << 80 | 0x7 << 76 | high << 64 | 0x2 << 62 | low)


def as_id(text: str) -> UUID | None:
    """Return the id that a text is, or None if it is something else, such as a name."""
    try:
        return UUID(text)
    except ValueError:
        return None


def content_hash(value: Any) -> str:
    """Return a hash of a JSON value that does not depend on the order of its keys: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def token_hash(secret: str) -> bytes:
    """Return what the ledger keeps of a credential: its SHA-256. The credentials are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).digest()


def parse_token(token: str) -> tuple[UUID, bytes] | None:
    """Return the attempt's id and the hash of the secret, or None for something that is no token."""
    attempt_id, _, secret = token.partition(".")
    known = as_id(attempt_id)
    return (known, token_hash(secret)) if known is not None and secret else None
