"""What a zygote and its children do in a pod that runs many attempts, before any user code.

Tasks of one pool share a user and a pod, and so trust each other: a child could read the memory of another. It is not
closed to that, because a process that is closed cannot use its own ``/proc`` either, and libraries that pass memory
between processes stop to work.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

import windlass
from windlass import execution, protocol
from windlass.tasks import Task
from windlass.transport import HttpTransport
from windlass_runner import child, outcome

_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)
_SOONER: Final = 50
"""Of a thousand, added to what the container has. Not more: on a node that is full, ours is one pod of many."""
_REHEARSALS: Final = 20
_prctl: Final = ctypes.CDLL(None).prctl


def preparations() -> list[Callable[[], object]]:
    """Return what a zygote is to do before it forks many: each when it has nothing else to do."""
    return [
        stand_aside,
        lambda: importlib.import_module("asyncio"),
        *(partial(_load, name) for name in windlass.__all__),
        lambda: _rehearse(_nothing),
        lambda: _rehearse(_nothing_async),
        lambda: _rehearse(_typed) if importlib.util.find_spec("pydantic") else None,
    ]


def _load(name: str) -> None:
    """Import the module that a name of ``windlass`` comes from: the text of a Task would, in each child anew."""
    getattr(windlass, name)


def stand_aside() -> None:
    """Let the kernel end the code that uses the memory, not process 1, whose end would be that of all other attempts.

    Children inherit it, and use more than we do.
    """
    with contextlib.suppress(OSError, ValueError):
        file = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        try:
            os.write(file, b"%d" % min(1000, int(os.read(file, 16)) + _SOONER))
        finally:
            os.close(file)


def _rehearse(function: Callable[..., object]) -> None:
    """Run attempts of nothing. What Python and its libraries find out only once is then known to all children."""
    child.OUTPUTS[:] = child.open_outputs()
    for _ in range(_REHEARSALS):
        rehearse_once(function)


def _nothing(value=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - without annotations pydantic is not needed
    return value


async def _nothing_async(value=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as above
    return value


def _typed(value: int | str) -> int | str:  # plain types would not need pydantic
    return value


def rehearse_once(function: Callable[..., object] = _nothing) -> None:
    """Run an attempt of nothing."""
    attempt = msgspec.json.decode(msgspec.json.encode(_EMPTY), type=protocol.ClaimedAttempt)
    task: Task[Any, Any] = Task(function, None, {})
    finished = execution.execute(task, attempt, HttpTransport(os.environ["WINDLASS_URL"], attempt.token))
    outcome.encode(finished.complete, finished.fail)


_EMPTY: Final = protocol.ClaimedAttempt(
    attempt_id="rehearsal",
    token="rehearsal",  # noqa: S106 - nobody is called with it
    run_id="rehearsal",
    number=1,
    max_attempts=1,
    task="rehearsal",
    namespace="rehearsal",
    entrypoint="rehearsal:nothing",
    lease_ms=1,
    heartbeat_ms=1,
    payload=msgspec.Raw(b"1"),
)


def prepare_child() -> None:
    """Prepare a child for user code of one attempt among many."""
    # What the code leaves behind has us for a parent, and process 1 only after us: then it knows that it may end it.
    _prctl(_SUBREAPER, 1, 0, 0, 0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # it was seeded in the zygote: all forks would draw the same numbers
        with contextlib.suppress(Exception):
            numpy_random.seed()
