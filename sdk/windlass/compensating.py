"""An attempt that undoes what the finished steps of a run did: their compensations, each as a durable step."""

import contextlib
import hashlib
import importlib
import inspect
import sys
from typing import Any

from windlass import branches, compensation, protocol, tries
from windlass.checkpoints import Running
from windlass.context import Active
from windlass.failures import failure_of
from windlass.transport import Transport


def undo_all(activated: Active, attempt: protocol.ClaimedAttempt, transport: Transport) -> None:
    """Undo what the claim brought, in its order, and then whatever else is left.

    What was undone is saved before the next one begins: an attempt that takes over repeats none of it.

    Raises:
        CompensationError: A compensation cannot be called any more.
        Exception: What a compensation raised. Nothing after it was begun.
    """
    left, more = attempt.compensate, attempt.more_compensations
    while left:
        for one in left:
            _undo(activated, one)
        if not more:
            return
        page = transport.load_compensations()
        left, more = page.compensations, page.more


def _undo(activated: Active, one: protocol.Compensation) -> None:
    key = compensation.PREFIX + one.key
    digest = hashlib.sha256(bytes(one.compensation)).hexdigest()[:16]
    running = Running(key, f"compensate {one.name}", digest)
    checkpoints = activated.checkpoints
    activated.stop.before_step_sync()
    checkpoints.begin(running)
    token = branches.enter(branches.Branch(inside_step=key))
    leave_span = activated.enter_span(key) if activated.enter_span is not None else None
    try:
        _call(activated, one, running)
    except BaseException as error:  # sys.exit() included, as for every step
        checkpoints.fail(running, failure_of(error, key))
        raise
    finally:
        branches.leave(token)
        if leave_span is not None:
            leave_span()
    # Without what it returned: a value that cannot be saved must not let a finished compensation run again.
    checkpoints.finish(running, b"null")


def _call(activated: Active, one: protocol.Compensation, running: Running) -> None:
    saved = compensation.read(bytes(one.compensation))
    if saved.module not in sys.modules:
        with contextlib.suppress(ImportError):  # it is gone, or moved: the next line says what cannot be undone
            importlib.import_module(saved.module)
    found = compensation.find(saved)

    def result() -> bytes:
        step = protocol.Step(
            key=one.key, name=one.name, args_hash="", state="succeeded", result=one.result, result_ref=one.result_ref
        )
        return activated.checkpoints.value_of(step)

    arguments = found.arguments(saved, found.types, result)
    if found.protect:
        from windlass.protection import protect

        protect(activated, running)
    if found.options is not None:
        _tried(activated, running, found.options, found.function, arguments)
        return
    value: Any = found.function(**arguments)
    if inspect.iscoroutine(value):
        import asyncio

        asyncio.run(value)


class _Body(tries.Body):
    """A compensation that is a step with options: its tries are those of one attempt."""

    def begun(self) -> None:
        """Begin with the first try: earlier attempts had their own."""

    def pause(self, seconds: float) -> None:
        """Stay in the process, however long: a run that undoes its steps does not wait in another way."""


def _tried(activated: Active, running: Running, options: tries.Options, function: Any, given: dict[str, Any]) -> None:
    body = _Body(activated, running, options, lambda: function(**given), lambda: given)
    if inspect.iscoroutinefunction(function):
        import asyncio

        asyncio.run(tries.run_async(body))
    else:
        tries.run(body)
