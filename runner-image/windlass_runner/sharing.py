"""What a child does before any user code in a pod that runs many: it must leave nothing behind.

Tasks of one pool share a user and a pod, and so trust each other: a child could read the memory of another. It is not
closed to that, because a process that is closed cannot use its own ``/proc`` either, and libraries that pass memory
between processes stop to work.
"""

import contextlib
import sys
from typing import Final

_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)
_SOONER: Final = 50
"""Of a thousand, added to what the container has. Not more: on a node that is full, ours is one pod of many."""


def prepare() -> None:
    """Prepare this process for user code of one attempt among many."""
    import ctypes

    # What the code leaves behind has us for a parent, and process 1 only after us: then it knows that it may end it.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    # The kernel is to end the code that uses the memory, not the runner, whose end would be that of all other attempts.
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:  # noqa: PTH123 - as in memory
        file.write(b"%d" % min(1000, int(file.read()) + _SOONER))
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # it was seeded in the zygote: all forks would draw the same numbers
        with contextlib.suppress(Exception):
            numpy_random.seed()
