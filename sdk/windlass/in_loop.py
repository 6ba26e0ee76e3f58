"""Running an attempt as one of many tasks of an event loop, in a process that runs several attempts at once.

It does what :func:`windlass.execution.execute` does for an attempt that has its process to itself. Nothing here may
stop the loop: whatever may wait for the API happens in a thread.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from windlass import branches, protocol
from windlass.arguments import arguments_of
from windlass.context import Active, activate
from windlass.execution import Finished, completed, finished_by, forks_end_here, join_trace, prepare
from windlass.serialization import encode
from windlass.tasks import Task
from windlass.transport import Transport


async def execute_in_loop(
    task: Task[Any, Any],
    attempt: protocol.ClaimedAttempt,
    transport: Transport,
    hand_back: Callable[[], None],
    *,
    code: str | None,
    begun: Callable[[Active], None],
) -> Finished:
    """Run an attempt of an ``async def`` task and return what came of it. Must be a task and a context of its own.

    Code that waits without a process, or whose pod must end, is left by :class:`windlass.errors.RunSuspended`.

    Args:
        task: What to call.
        attempt: What the claim brought; not one that undoes steps.
        transport: To the API.
        hand_back: Called once the code has stopped because the pod must end, in a thread.
        code: Id of the code that runs.
        begun: Called before the code starts.

    Raises:
        AttemptClosedError: Another attempt may be running; nothing may be reported.
    """
    activated, root, progress = prepare(attempt, transport, lambda: None, hand_back, code=code)
    activate(activated)
    begun(activated)
    join_trace(activated, attempt)
    me = asyncio.current_task()
    root.claim(me)
    branches.enter(root)
    checkpoints = activated.checkpoints
    try:
        if attempt.checkpoint_ref is not None:
            await asyncio.to_thread(progress.load)
        if task.migrate is not None:
            await asyncio.to_thread(checkpoints.migrate, task.migrate)
        if attempt.payload_ref is None:
            args, kwargs = arguments_of(task, attempt, transport)
        else:
            args, kwargs = await asyncio.to_thread(arguments_of, task, attempt, transport)
        activated.loop = asyncio.get_running_loop()
        try:
            with forks_end_here():
                value = await _call(activated, root, me, task, args, kwargs)
        finally:
            activated.waits.close()
            if checkpoints.needs_closing:
                await asyncio.to_thread(checkpoints.close)  # what is finished is saved, whatever comes of the rest
            else:
                checkpoints.close()
        if checkpoints.suspended:
            return Finished(suspended=True)
        checkpoints.insist()
        data = encode(value, what="result")
        if len(data) <= protocol.INLINE_LIMIT:
            return Finished(complete=completed(data, transport))
        return Finished(complete=await asyncio.to_thread(completed, data, transport))
    except BaseException as error:  # the edge between the user's code and us
        return finished_by(activated, error)
    finally:
        activate(None)


async def _call(
    activated: Active,
    root: branches.Branch,
    me: "asyncio.Task[Any] | None",
    task: Task[Any, Any],
    args: list[Any],
    kwargs: dict[str, Any],
) -> Any:
    if activated.run.cancelled:
        raise asyncio.CancelledError("The run was cancelled before its code started.")
    activated.main_task = me
    try:
        return await task.function(*args, **kwargs)
    finally:
        root.ended = True
        if root.has_started_others:
            await _cancel_rest(root, me)
        activated.main_task = None  # a cancellation that comes now is too late


async def _cancel_rest(root: branches.Branch, me: "asyncio.Task[Any] | None") -> None:
    """Cancel what the code has started and not waited for, as ``asyncio.run`` does."""
    rest = []
    for task in asyncio.all_tasks():
        branch = branches.of_task(task)
        if branch is not None and branch.root is root and task is not me:
            task.cancel()
            rest.append(task)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*rest, return_exceptions=True)
