"""The real runner as a process, in a pod of a test's world."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.eventually import eventually
from tests.support.world import World, a_task
from windlass_operator.domain.retry import RetryPolicy

ONCE = RetryPolicy(max_attempts=1)


@asynccontextmanager
async def runner(
    world: World, url: str, output: int = asyncio.subprocess.PIPE, /, **env: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the pods that are due and a runner in the newest of them, which prints to ``output``."""
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    full = {
        **os.environ,
        "WINDLASS_URL": url,
        "POD_NAME": seen.name,
        "POD_UID": seen.uid,
        "WINDLASS_CREDENTIAL": world.cluster.credentials[seen.namespace],
        "WINDLASS_CLAIM_WAIT_MS": "300",
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "windlass_runner",
        env=full,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 24,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_once(world: World, url: str, **env: str) -> tuple[int, str]:
    """Run a runner to its end; return exit code and output."""
    async with runner(world, url, **env) as process:
        return await ended(process)


async def ended(process: asyncio.subprocess.Process, *, seconds: float = 30) -> tuple[int, str]:
    """Wait for a runner's end; return exit code and output.

    The end is that of process 1, not of its output: what user code left behind may hold that open.
    """
    assert process.stdout is not None
    output = asyncio.create_task(process.stdout.read())
    exit_code = await asyncio.wait_for(process.wait(), seconds)
    done, _ = await asyncio.wait({output}, timeout=2)
    return exit_code, output.result().decode() if done else ""


def code(body: str, **changes: Any) -> Any:
    """Return a task whose module is ``body``."""
    return a_task(entrypoint="job:main", source=f"from windlass import *\n{body}", **{"retry": ONCE, **changes})


async def logs_of(world: World, run_id: UUID) -> list[str]:
    """Return the lines of a run."""
    return [line["text"] for line in await world.runs.logs(run_id, after=(0, 0), limit=20_000)]


async def said(world: World, run_id: UUID, line: str) -> None:
    """Wait until a run has printed a line."""
    await eventually(lambda: logs_of(world, run_id), lambda lines: line in lines)


def beat_often(monkeypatch: pytest.MonkeyPatch, milliseconds: int = 50) -> None:
    """Let runners that claim from now on send heartbeats often."""
    monkeypatch.setattr("windlass_operator.config.HEARTBEAT", timedelta(milliseconds=milliseconds))
