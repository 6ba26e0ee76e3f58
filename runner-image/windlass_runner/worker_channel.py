"""What process 1 and a worker process say to each other, over a stream socket (file descriptor 3 of the worker).

A frame is a head (size of the body, kind, number of the attempt in this worker) and a body:

- to the worker: ``PRELOAD`` (a module), ``START`` (the attempt in JSON), ``CANCEL``, ``STOP`` (before the next step),
  ``PING``
- to process 1: ``READY``, ``IMPORTING`` (attempt 0: none any more), ``STDOUT`` and ``STDERR`` (what the attempt's code
  has written), ``ENDED`` (as :mod:`windlass_runner.outcome` encodes it), ``PONG``
"""

import struct
from collections.abc import Iterator
from typing import Final

SOCKET: Final = 3
"""File descriptor of the worker's end."""

PRELOAD: Final = 1
START: Final = 2
CANCEL: Final = 3
STOP: Final = 4
PING: Final = 5
READY: Final = 16
IMPORTING: Final = 17
STDOUT: Final = 18
STDERR: Final = 19
ENDED: Final = 20
PONG: Final = 21

READ: Final = 1 << 18
"""Bytes that are read at once."""
_HEAD: Final = struct.Struct("<IBI")
_pack: Final = _HEAD.pack
_unpack: Final = _HEAD.unpack_from


def frame(kind: int, number: int = 0, body: bytes = b"") -> bytes:
    """Return a frame."""
    return _pack(len(body), kind, number) + body


class Frames:
    """Takes a stream apart."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Return kind, number and body of the frames that ``chunk`` completes."""
        data = self._rest + chunk if self._rest else chunk
        at, size = 0, len(data)
        while size - at >= _HEAD.size:
            length, kind, number = _unpack(data, at)
            end = at + _HEAD.size + length
            if end > size:
                break
            yield kind, number, data[at + _HEAD.size : end]
            at = end
        self._rest = data[at:]
