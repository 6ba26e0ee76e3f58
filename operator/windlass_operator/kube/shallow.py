"""Objects that are nested deeper than this process can read: cut, so that one of them does not hide the others.

The API server takes JSON of 10,000 levels in a free-form field. Python's reader gives up at about a thousand, which
would end every list and every watch that has such an object in it, for everybody. What is cut here is deeper than
what any of our rules accepts, so the object is refused afterwards, in words and by itself.
"""

import re
from typing import Final

LEVELS: Final = 250
"""Levels that are kept: more than a payload may have and the object around it; few enough for copies by recursion."""
_PARTS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', re.DOTALL)


def shallow(text: bytes) -> bytes:
    """Return JSON with null in the place of what is deeper than :data:`LEVELS`. What is no JSON stays as it is."""
    if text.count(b"[") + text.count(b"{") <= LEVELS:
        return text
    kept: list[bytes] = []
    depth, copied = 0, 0
    for found in _PARTS.finditer(text):
        part = found[0]
        if part in b"[{":
            depth += 1
            if depth == LEVELS + 1:
                kept += [text[copied : found.start()], b"null"]
        elif part in b"]}":
            if depth == LEVELS + 1:
                copied = found.end()
            depth -= 1
    if not kept:
        return text
    return b"".join([*kept, text[copied:]])
