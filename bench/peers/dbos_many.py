"""A DBOS application that runs many workflows at once. Each line it reads is ``workflows steps``; it answers in JSON.

Arguments: URI of the system database, what DBOS is to pass to SQLAlchemy's engine as JSON, and ``sync`` or ``async``:
workflows in threads of DBOS's own, or in one event loop.
"""

import asyncio
import json
import sys
import threading
import time
from typing import Any

import sqlalchemy
from dbos import DBOS

DONE = [0]
"""Steps whose body has run."""
_COUNTING = threading.Lock()


async def _tick(n: int) -> int:
    DONE[0] += 1
    return n


tick = DBOS.step(name="tick")(_tick)


async def _steps(count: int) -> int:
    for n in range(count):
        await tick(n)
    return count


steps = DBOS.workflow(name="steps")(_steps)


def _tick_in_thread(n: int) -> int:
    with _COUNTING:
        DONE[0] += 1
    return n


tick_in_thread = DBOS.step(name="tick_in_thread")(_tick_in_thread)


def _steps_in_thread(count: int) -> int:
    for n in range(count):
        tick_in_thread(n)
    return count


steps_in_thread = DBOS.workflow(name="steps_in_thread")(_steps_in_thread)


def _answer(seconds: float, before: int, engine: Any) -> None:
    print(json.dumps({"seconds": seconds, "effects": DONE[0], "saved": _saved(engine) - before}), flush=True)


async def _serve(engine: Any) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        runs, count = map(int, line.split())
        DONE[0], before = 0, _saved(engine)
        began = time.perf_counter()
        await asyncio.gather(*(steps(count) for _ in range(runs)))
        _answer(time.perf_counter() - began, before, engine)


def _serve_threads(engine: Any) -> None:
    while line := sys.stdin.readline():
        runs, count = map(int, line.split())
        DONE[0], before = 0, _saved(engine)
        began = time.perf_counter()
        for handle in [DBOS.start_workflow(steps_in_thread, count) for _ in range(runs)]:
            handle.get_result()
        _answer(time.perf_counter() - began, before, engine)


def _saved(engine: Any) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sqlalchemy.text("SELECT count(*) FROM dbos.operation_outputs")).scalar() or 0)


def main() -> None:
    """Answer until the input ends."""
    uri, engine_settings = sys.argv[1], json.loads(sys.argv[2])
    config: Any = {"name": "bench", "system_database_url": uri, "log_level": "ERROR"}
    if engine_settings:
        config["db_engine_kwargs"] = engine_settings
    DBOS(config=config)
    DBOS.launch()
    engine = sqlalchemy.create_engine(uri.replace("postgresql://", "postgresql+psycopg://"))
    print("ready", flush=True)
    if sys.argv[3] == "sync":
        _serve_threads(engine)
    else:
        asyncio.run(_serve(engine))
    DBOS.destroy()


if __name__ == "__main__":
    main()
