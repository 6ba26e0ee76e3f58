"""JSON that a program of any language wrote: checked here, so that every later reader can rely on it."""

import json
import os
import re
import stat
from typing import Final

import msgspec

from windlass import protocol
from windlass.errors import SerializationError
from windlass.serialization import encode

VALUE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of a result or a step's value. The sidecar holds it in memory, and its memory is the same for every task."""

_DOUBTFUL: Final = re.compile(rb"\\u[dD][89a-fA-F]|[0-9]{400}|[eE]\+?[0-9]{3}")
"""Surrogates, very long numbers, very large exponents: JSON by its grammar, and still not for every reader."""


def checked(data: bytes, what: str) -> bytes:
    """Return JSON text without the space around it.

    Args:
        data: What the program wrote.
        what: What it is, for the message: ``result``, ``value of step 'charge'``.

    Raises:
        SerializationError: It is no JSON, or JSON that not every reader accepts.
    """
    data = data.strip(b" \t\r\n")
    if not data:
        raise SerializationError(f"The {what} is empty. Write JSON, for example null.")
    try:
        data.decode()
        msgspec.json.decode(data, type=msgspec.Raw)
        if _DOUBTFUL.search(data):
            encode(json.loads(data), what=what)
    except UnicodeDecodeError as error:
        raise SerializationError(f"The {what} is not UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise SerializationError(f"The {what} is nested too deeply.") from None
    except (msgspec.DecodeError, ValueError) as error:
        start = data[:40].decode(errors="replace")
        raise SerializationError(f"The {what} is not JSON: {str(error)[:200]}. It begins with {start!r}.") from None
    return data


def read_result(descriptor: int | None, errno: int) -> bytes | protocol.Failure:
    """Return the JSON of the result file, ``null`` where there is none, or why it cannot be the result.

    Args:
        descriptor: The open file; closed here. It comes from the main container, so it may be anything.
        errno: Why the shim could not open it.
    """
    if descriptor is None:
        if errno in (0, 2):
            return b"null"
        return _unusable(f"The result file cannot be read: {os.strerror(errno)}.")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return _unusable("WINDLASS_RESULT_FILE is not a regular file.")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(VALUE_LIMIT + 1) if found.st_size <= VALUE_LIMIT else b""
    size = max(found.st_size, len(data))
    if size > VALUE_LIMIT:
        message = (
            f"The result file has {size} bytes; the limit is {VALUE_LIMIT}. Store it elsewhere and return its place."
        )
        return protocol.Failure(
            type="ResultTooLarge", message=message, failure_class="permanent", reason="ResultTooLarge"
        )
    try:
        return checked(data, "result file")
    except SerializationError as error:
        return _unusable(str(error))


def _unusable(message: str) -> protocol.Failure:
    reason = "ResultNotSerializable"
    return protocol.Failure(type=reason, message=message, failure_class="permanent", reason=reason)
