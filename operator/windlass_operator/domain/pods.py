"""Pods as the rules see them: one that is to be made, and what a look at one showed."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class PoolPod:
    """What makes a pod one of a WorkerPool.

    Attributes:
        name: Of the pool.
        max_age: How long it takes runs, at most.
        max_runs: How many it takes; None for any number.
        in_process: Whether its runs share one process.
        max_runs_per_process: Runs after which that is replaced; 0: never.
    """

    name: str
    max_age: timedelta
    max_runs: int | None = None
    in_process: bool = False
    max_runs_per_process: int = 0


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod that is to be created."""

    name: str
    namespace: str
    pod_key: str
    task: str
    ahead: bool = False
    """A standby pod: no run waits for it, so it may take its time to start."""
    pool: PoolPod | None = None
    """Of a pod that takes one run after the other; None: it ends with its first attempt."""


@dataclass(frozen=True, slots=True)
class PodSeen:
    """What a look at a pod showed. See ``kube.pod_status``."""

    name: str
    namespace: str
    uid: str
    exists: bool
    ended: bool
    succeeded: bool
    started: bool
    node: str | None = None
    reason: str | None = None
    message: str | None = None
    """Why it does not start, or why it ended."""
    last_state: dict[str, Any] | None = None
    exit_code: int | None = None
    memory_limit: int | None = None
    """Bytes that the container with the user's code may use."""
    marked: bool | None = None
    """Whether it carries the annotation of a protected step; None where pods carry none."""
