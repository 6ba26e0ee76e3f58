"""Identifiers: made here, so that a row's id is known before it is written and a repeated write finds it."""

import hashlib
import json
import os
import time
from typing import Any
from uuid import UUID


def new_id() -> UUID:
    """Return a version 7 UUID (RFC 9562): ordered by time, so an index on it grows at its right edge."""
    milliseconds = time.time_ns() // 1_000_000
    value = int.from_bytes(os.urandom(10), "big") | (milliseconds & 0xFFFFFFFFFFFF) << 80
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def content_hash(value: Any) -> str:
    """Return a hash of a JSON value that does not depend on the order of its keys: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def token_hash(secret: str) -> bytes:
    """Return what the ledger keeps of a credential: its SHA-256. The credentials are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).digest()
