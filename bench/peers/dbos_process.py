"""A DBOS application in the peers' own environment. Each line it reads is a number of steps; it answers in JSON.

Arguments: URI of the system database, what DBOS is to pass to SQLAlchemy's engine as JSON, and ``sync`` or ``async``.
"""

import asyncio
import json
import sys
import time
import uuid
from typing import Any

import sqlalchemy
from dbos import DBOS, SetWorkflowID

DONE = [0]
"""Steps whose body has run."""


def _tick(n: int) -> int:
    DONE[0] += 1
    return n


async def _atick(n: int) -> int:
    DONE[0] += 1
    return n


tick = DBOS.step(name="tick")(_tick)
atick = DBOS.step(name="atick")(_atick)


def _sync(count: int) -> list[float]:
    times = []
    for n in range(count):
        began = time.perf_counter()
        tick(n)
        times.append((time.perf_counter() - began) * 1000)
    return times


async def _asynchronous(count: int) -> list[float]:
    times = []
    for n in range(count):
        began = time.perf_counter()
        await atick(n)
        times.append((time.perf_counter() - began) * 1000)
    return times


sync = DBOS.workflow(name="sync")(_sync)
asynchronous = DBOS.workflow(name="asynchronous")(_asynchronous)


def _answer(workflow: str, times: list[float], engine: Any) -> None:
    with engine.connect() as connection:
        query = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = :id"
        saved = connection.execute(sqlalchemy.text(query), {"id": workflow}).scalar()
    print(json.dumps({"times": times, "effects": DONE[0], "saved": saved}), flush=True)


def _serve_sync(engine: Any) -> None:
    """Call workflows from the main thread, with no event loop: a thread more would only slow DBOS down."""
    while line := sys.stdin.readline():
        DONE[0], workflow = 0, str(uuid.uuid4())
        with SetWorkflowID(workflow):
            times = sync(int(line))
        _answer(workflow, times, engine)


async def _serve_async(engine: Any) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        DONE[0], workflow = 0, str(uuid.uuid4())
        with SetWorkflowID(workflow):
            times = await asynchronous(int(line))
        _answer(workflow, times, engine)


def main() -> None:
    """Answer until the input ends."""
    uri, engine_settings, kind = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    config: Any = {"name": "bench", "system_database_url": uri, "log_level": "ERROR"}
    if engine_settings:
        config["db_engine_kwargs"] = engine_settings
    DBOS(config=config)
    DBOS.launch()
    engine = sqlalchemy.create_engine(uri.replace("postgresql://", "postgresql+psycopg://"))
    print("ready", flush=True)
    if kind == "sync":
        _serve_sync(engine)
    else:
        asyncio.run(_serve_async(engine))
    DBOS.destroy()


if __name__ == "__main__":
    main()
