"""Temporal's Python SDK in the peers' own environment: a worker, a client, or both in one process.

Arguments: ``worker``, ``client``, ``both`` or ``steps``, and JSON with ``address``, ``queue``, ``effects`` (a file),
``tuned`` and ``workflows`` (by task). With ``steps`` each line it reads orders one workflow whose steps are timed.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import PollerBehaviorAutoscaling, UnsandboxedWorkflowRunner, Worker

from bench.peers.load import Trigger, serve
from bench.peers.temporal_activities import DONE, ORDER, note, tick
from bench.peers.temporal_workflows import ALL

_START = 90.0
"""Seconds until the server serves: its services find each other, and learn of a namespace, by asking now and then."""
_AT_ONCE = 200
"""Tasks of a kind at once. It is 100 by default; a burst has 100 runs."""
_KEPT = timedelta(days=1)
_QUEUE = ORDER["queue"]


async def _connected() -> Client:
    """Return a client of a server that serves the namespace."""
    until = time.monotonic() + _START
    while True:
        try:
            client = await Client.connect(ORDER["address"])
            await _namespace(client)
        except (RPCError, RuntimeError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
        else:
            return client


async def _namespace(client: Client) -> None:
    request = RegisterNamespaceRequest(namespace=client.namespace)
    request.workflow_execution_retention_period.FromTimedelta(_KEPT)
    try:
        await client.workflow_service.register_namespace(request)
    except RPCError as error:
        if "already" not in str(error).lower():
            raise
    # Services that do not know it yet refuse; each of them is asked here.
    await client.count_workflows()
    await client.start_workflow("none", id=f"none-{uuid.uuid4()}", task_queue="none", run_timeout=timedelta(seconds=1))


def _worker(client: Client) -> Worker:
    tuned: dict[str, Any] = {}
    if ORDER["tuned"]:
        tuned = {
            "workflow_runner": UnsandboxedWorkflowRunner(),
            "max_concurrent_activities": _AT_ONCE,
            "max_concurrent_local_activities": _AT_ONCE,
            "max_concurrent_workflow_tasks": _AT_ONCE,
            "workflow_task_poller_behavior": PollerBehaviorAutoscaling(),
            "activity_task_poller_behavior": PollerBehaviorAutoscaling(),
        }
    return Worker(client, task_queue=_QUEUE, workflows=ALL, activities=[note, tick], **tuned)


def _trigger(client: Client, *, eager: bool) -> Trigger:
    async def trigger(task: str, key: str, argument: int) -> Any:
        workflow = ORDER["workflows"][task]
        handle = await client.start_workflow(
            workflow, args=[key, argument], id=key, task_queue=_QUEUE, request_eager_start=eager
        )
        return await handle.result()

    return trigger


async def _steps(client: Client) -> None:
    """Answer orders until the input ends."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        DONE[0], key = 0, str(uuid.uuid4())
        arguments = [key, order["count"], order["local"]]
        times: Any = await client.execute_workflow("timed", args=arguments, id=key, task_queue=_QUEUE)
        saved = await _saved(client, key, local=order["local"])
        print(json.dumps({"times": times, "effects": DONE[0], "saved": saved}), flush=True)


async def _saved(client: Client, workflow: str, *, local: bool) -> int:
    """Return how many results stand in a workflow's history."""
    completed = EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    wanted = EventType.EVENT_TYPE_MARKER_RECORDED if local else completed
    history = await client.get_workflow_handle(workflow).fetch_history()
    return sum(event.event_type == wanted for event in history.events)


def _answers_alone() -> None:
    """Keep standard output for answers: the SDK's core writes its warnings there, and they go to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = answers


async def main() -> None:
    """Be what the first argument says until the input ends."""
    _answers_alone()
    kind, client = sys.argv[1], await _connected()
    if kind == "client":
        await serve(_trigger(client, eager=False))
        return
    async with _worker(client):
        if kind == "worker":
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
        elif kind == "both":
            await serve(_trigger(client, eager=True))
        else:
            await _steps(client)


if __name__ == "__main__":
    asyncio.run(main())
