"""Temporal's workflows. In its sandbox this module is imported anew for each; what is passed through is not."""

from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    import time

    from bench.peers.temporal_activities import EFFECTS, note, tick

_LIMIT = {"start_to_close_timeout": timedelta(seconds=60)}


@workflow.defn(name="noop")
class Noop:
    """Does nothing, once, in the workflow itself: the least that a run can be."""

    @workflow.run
    async def run(self, key: str, _: int) -> str:
        """Do it."""
        EFFECTS.note(key)
        return key


@workflow.defn(name="noop_activity")
class NoopActivity:
    """Does nothing, once, in an activity, where user code with effects belongs."""

    @workflow.run
    async def run(self, key: str, _: int) -> str:
        """Do it."""
        return str(await workflow.execute_activity(note, key, **_LIMIT))


@workflow.defn(name="activities")
class Activities:
    """So many steps, one after the other, each an activity."""

    @workflow.run
    async def run(self, key: str, count: int) -> str:
        """Do it."""
        for n in range(count):
            await workflow.execute_activity(tick, args=[key, n], **_LIMIT)
        return key


@workflow.defn(name="local_activities")
class LocalActivities:
    """The same with local activities, whose results are saved with the workflow task and not one by one."""

    @workflow.run
    async def run(self, key: str, count: int) -> str:
        """Do it."""
        for n in range(count):
            await workflow.execute_local_activity(tick, args=[key, n], **_LIMIT)
        return key


@workflow.defn(name="timed", sandboxed=False)
class Timed:
    """Answers the milliseconds of each step, as the code that calls it sees them."""

    @workflow.run
    async def run(self, key: str, count: int, local: bool) -> list[float]:
        """Do it."""
        call: Any = workflow.execute_local_activity if local else workflow.execute_activity
        times = []
        for n in range(count):
            if workflow.unsafe.is_replaying():
                raise RuntimeError("the worker has forgotten the workflow; such times mean nothing")
            began = time.perf_counter()
            await call(tick, args=[key, n], **_LIMIT)
            times.append((time.perf_counter() - began) * 1000)
        return times


ALL = (Noop, NoopActivity, Activities, LocalActivities, Timed)
