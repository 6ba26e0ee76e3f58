"""What both ends of the zygote's socket agree on. Imports nothing: process 1 must not pay for the zygote's imports."""

from typing import Final

SOCKET: Final = 3
"""File descriptor of the zygote's end."""

SPARE: Final = "spare:"
"""What the names of children begin with that were forked before there was an attempt; the rest is the process."""

LONGEST: Final = 64 * 1024
"""Bytes of the longest message. An attempt is no message: it comes as a file."""
