"""Windlass: durable background tasks for Kubernetes.

>>> from windlass import task, step

Names are loaded when they are used: ``import windlass`` costs next to nothing.
"""

TYPE_CHECKING = False  # known by this name to type checkers; to import `typing` would be most of what this module costs
if TYPE_CHECKING:
    from asyncio import gather
    from typing import Any

    from windlass.approvals import Decision, wait_for_approval, wait_for_approval_sync
    from windlass.children import RunResult
    from windlass.client import Client, RunHandle
    from windlass.context import CurrentRun, NotInRunError, current_run
    from windlass.errors import (
        ApiError,
        DivergenceError,
        PermanentError,
        RetryAt,
        RunCancelled,
        RunFailedError,
        SerializationError,
        StepError,
        StepFailedError,
        StepTimeoutError,
        ValueTooLargeError,
        WaitError,
        WaitTimeoutError,
        WindlassError,
    )
    from windlass.events import Event, send_event, send_event_sync, wait_for_event, wait_for_event_sync
    from windlass.log import logger
    from windlass.migration import History, MigrationError, SavedStep
    from windlass.recorded import now, random, uuid
    from windlass.retry import Retry
    from windlass.steps import Step, step
    from windlass.tasks import Task, task
    from windlass.threads import ThreadPoolExecutor, to_thread
    from windlass.tokens import Token, create_token, create_token_sync, wait_for, wait_for_sync
    from windlass.waits import sleep, sleep_sync, sleep_until, sleep_until_sync

_HOMES = {
    "ApiError": "errors",
    "Client": "client",
    "CurrentRun": "context",
    "Decision": "approvals",
    "DivergenceError": "errors",
    "Event": "events",
    "History": "migration",
    "MigrationError": "migration",
    "NotInRunError": "context",
    "PermanentError": "errors",
    "Retry": "retry",
    "RetryAt": "errors",
    "RunCancelled": "errors",
    "RunFailedError": "errors",
    "RunHandle": "client",
    "RunResult": "children",
    "SavedStep": "migration",
    "SerializationError": "errors",
    "Step": "steps",
    "StepError": "errors",
    "StepFailedError": "errors",
    "StepTimeoutError": "errors",
    "Task": "tasks",
    "ThreadPoolExecutor": "threads",
    "Token": "tokens",
    "ValueTooLargeError": "errors",
    "WaitError": "errors",
    "WaitTimeoutError": "errors",
    "WindlassError": "errors",
    "create_token": "tokens",
    "create_token_sync": "tokens",
    "current_run": "context",
    "gather": "",
    "logger": "log",
    "now": "recorded",
    "random": "recorded",
    "send_event": "events",
    "send_event_sync": "events",
    "sleep": "waits",
    "sleep_sync": "waits",
    "sleep_until": "waits",
    "sleep_until_sync": "waits",
    "step": "steps",
    "task": "tasks",
    "to_thread": "threads",
    "uuid": "recorded",
    "wait_for": "tokens",
    "wait_for_approval": "approvals",
    "wait_for_approval_sync": "approvals",
    "wait_for_event": "events",
    "wait_for_event_sync": "events",
    "wait_for_sync": "tokens",
}

__all__ = [
    "ApiError",
    "Client",
    "CurrentRun",
    "Decision",
    "DivergenceError",
    "Event",
    "History",
    "MigrationError",
    "NotInRunError",
    "PermanentError",
    "Retry",
    "RetryAt",
    "RunCancelled",
    "RunFailedError",
    "RunHandle",
    "RunResult",
    "SavedStep",
    "SerializationError",
    "Step",
    "StepError",
    "StepFailedError",
    "StepTimeoutError",
    "Task",
    "ThreadPoolExecutor",
    "Token",
    "ValueTooLargeError",
    "WaitError",
    "WaitTimeoutError",
    "WindlassError",
    "create_token",
    "create_token_sync",
    "current_run",
    "gather",
    "logger",
    "now",
    "random",
    "send_event",
    "send_event_sync",
    "sleep",
    "sleep_sync",
    "sleep_until",
    "sleep_until_sync",
    "step",
    "task",
    "to_thread",
    "uuid",
    "wait_for",
    "wait_for_approval",
    "wait_for_approval_sync",
    "wait_for_event",
    "wait_for_event_sync",
    "wait_for_sync",
]


def __getattr__(name: str) -> "Any":
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'windlass' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"windlass.{home}" if home else "asyncio"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
