"""The process of a rehearsal: its API on a port, and commands as lines of JSON on a pipe.

``windlass.testing`` starts it, once for a test session: ``python -m windlass_operator.local.rehearsing``. A process of
its own, so that the one that runs the tests has no threads of ours and may fork. It ends when its standard input does.
"""

import asyncio
import json
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog

from windlass_operator.domain.errors import WindlassError
from windlass_operator.local.plane import LocalPlane
from windlass_operator.local.postgres import LocalPostgres
from windlass_operator.local.rehearsal import Clock, Rehearsal, Stage

URI: Final = "WINDLASS_TEST_POSTGRES_URI"
"""Variable with the URI of a PostgreSQL in which databases may be made; without it, one is started."""

_COMMANDS: Final = frozenset(
    {
        "reset", "apply", "submit", "next", "move", "lose", "send_event", "decide", "complete_token", "cancel", "see",
    }
)  # fmt: skip


def main() -> None:
    """Serve until standard input ends."""
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints must not be taken for an answer
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        asyncio.run(_serve(commands, answers))
    except WindlassError as error:  # who has started us reads it
        raise SystemExit(f"{error.code}: {error.message}") from None


async def _serve(commands: Any, answers: Any) -> None:
    clock = Clock()
    async with (
        _database() as uri,
        LocalPlane.start(uri, now=clock.now, cluster_of=Stage, operates=False) as plane,
    ):
        rehearsal = Rehearsal(plane, clock)
        _write(answers, {"ok": {"url": plane.url}})
        while line := await asyncio.to_thread(commands.readline):
            _write(answers, await _answer(rehearsal, json.loads(line)))


async def _answer(rehearsal: Rehearsal, command: dict[str, Any]) -> dict[str, Any]:
    name = command.pop("do")
    if name not in _COMMANDS:
        return {"error": {"code": "UnknownCommand", "message": f"There is no command {name!r}."}}
    try:
        return {"ok": await getattr(rehearsal, name)(**command)}
    except WindlassError as error:
        return {"error": {"code": error.code, "message": error.message}}
    except Exception as error:  # the edge: whoever rehearses is to hear of it, and the next command may do
        return {"error": {"code": "InternalError", "message": f"{name}: {type(error).__name__}: {error}"}}


def _write(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")


@asynccontextmanager
async def _database() -> AsyncIterator[str]:
    """Make a database in the PostgreSQL that there is, and drop it at the end; or run one for it."""
    given = os.environ.get(URI)
    if given is None:
        with tempfile.TemporaryDirectory(prefix="windlass-testing-") as folder:
            server = LocalPostgres(Path(folder), throwaway=True)
            try:
                async with server.running() as (uri, _):
                    yield uri
            finally:
                await asyncio.to_thread(server.reset)  # root's data is not in our folder
        return
    name = f"windlass_rehearsal_{secrets.token_hex(6)}"
    with psycopg.connect(given, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    address, question, options = given.partition("?")
    try:
        yield f"{address.rpartition('/')[0]}/{name}{question}{options}"
    finally:
        with psycopg.connect(given, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    main()
