"""``windlass dev``: a local plane with its PostgreSQL, the Tasks of a path, and a console."""

import asyncio
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import watchfiles

from windlass_operator import logs
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.local.console import Console
from windlass_operator.local.plane import LocalPlane, PortTakenError
from windlass_operator.local.postgres import PostgresError
from windlass_operator.local.project import IGNORED, IN_ORDER, Found, Project
from windlass_operator.local.resources import Key, key_of
from windlass_operator.local.state import FOLDER, State
from windlass_operator.resources.names import RUN_KIND, TASK_KIND

PORT: Final = 8640
"""Where the API listens unless something else does: known, so that what is written down once stays right."""
_SETTLE: Final = 50
"""Milliseconds without a save after which those before it are taken together."""
_LOOK_ANYWAY: Final = 1_000
"""Milliseconds after which files are looked at whatever the watch says: not every file system tells of changes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Attributes:
        path: A Python file, a YAML file, or a folder.
        port: Of the API; None for the usual one, or any where that is taken.
        reset: Forget all runs first.
        token: That callers must send, or None.
        verbose: Whether to show what the control plane logs.
    """

    path: Path
    port: int | None = None
    reset: bool = False
    token: str | None = None
    verbose: bool = False


def develop(options: Options) -> None:
    """Run until a signal.

    Raises:
        WindlassError: It cannot start, or a part of it has ended.
    """
    logs.configure("info" if options.verbose else "error", style="console")
    asyncio.run(_develop(options))


async def _develop(options: Options) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    project, state = Project(options.path), State(Path.cwd() / FOLDER)
    with state.held():
        if options.reset:
            state.reset()
        looking = asyncio.create_task(project.look())  # imports and the database start side by side
        try:
            async with state.postgres.running() as (uri, server), AsyncExitStack() as stack:
                plane = await _start(stack, uri, options)
                await _run(plane, project, await looking, state, options, server, stop)
        finally:
            looking.cancel()


async def _start(stack: AsyncExitStack, uri: str, options: Options) -> LocalPlane:
    def plane(port: int) -> AbstractAsyncContextManager[LocalPlane]:
        return LocalPlane.start(uri, port=port, folder=Path.cwd(), token=options.token)

    if options.port is not None:
        return await stack.enter_async_context(plane(options.port))
    try:
        return await stack.enter_async_context(plane(PORT))
    except PortTakenError:
        return await stack.enter_async_context(plane(0))


async def _run(
    plane: LocalPlane,
    project: Project,
    found: Found,
    state: State,
    options: Options,
    server: asyncio.subprocess.Process,
    stop: asyncio.Event,
) -> None:
    tasks = Tasks(plane)
    console = Console(plane, say)
    parts = [
        asyncio.create_task(console.follow()),
        asyncio.create_task(plane.wait()),
        asyncio.create_task(_server_ends(server, state)),
        asyncio.create_task(stop.wait()),
    ]
    try:
        await tasks.take(found)
        state.announce(plane.url)
        _welcome(plane, tasks, options)
        parts.append(asyncio.create_task(_reload(project, tasks)))
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
        say("\nstopping; runs that are under way go on with the next start")
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def _server_ends(server: asyncio.subprocess.Process, state: State) -> None:
    await server.wait()
    raise PostgresError(f"PostgreSQL has ended. Its log: {state.postgres.log}")


def _welcome(plane: LocalPlane, tasks: "Tasks", options: Options) -> None:
    said = "sends the token" if options.token else "calls from this machine; --token asks for more"
    names = tasks.names()
    say(f"\nWindlass runs at {plane.url} and serves whoever {said}.")
    if not names:
        say("There is no Task yet: decorate a function with @task and save the file.")
    for name in names:
        say(f"  windlass run {name}")
    say("The command line finds it from this folder. Elsewhere, and for applications that trigger:")
    token = "…" if options.token else "local"
    say(f"  export WINDLASS_URL={plane.url} WINDLASS_TOKEN={token} WINDLASS_NAMESPACE=default")
    say("Saving a file reloads it. Ctrl-C stops; --reset forgets all runs.\n")


class Tasks:
    """What was found, as the plane has it.

    Args:
        plane: The plane.
    """

    def __init__(self, plane: LocalPlane) -> None:
        self._plane = plane
        self._applied: set[Key] = set()
        self._noted: set[str] = set()
        self.announced = False
        """Whether the first look is over: from then on each new Task is told of."""

    def names(self) -> list[str]:
        """Return the names of Tasks."""
        return sorted(name for kind, _, name in self._applied if kind == TASK_KIND)

    async def take(self, found: Found) -> None:
        """Bring the plane to what was found. What has a problem stays as it was before."""
        known = os.environ.get("PYTHONPATH")
        self._plane.runners.environment["PYTHONPATH"] = os.pathsep.join(
            [*found.python_path, *([known] if known else [])]
        )
        problems = list(map(str, found.problems))
        seen: set[Key] = set()
        for file, body in sorted(found.objects, key=lambda one: IN_ORDER.index(one[1]["kind"])):
            try:
                seen.add(key_of(body))
                await self._apply(body)
            except LedgerUnavailableError:
                raise
            except WindlassError as error:
                named = (body.get("metadata") or {}).get("name")
                problems.append(f"{file}: {body.get('kind')} {named}: {error.message}")
        if not problems:
            await self._forget(self._applied - seen)
        for note in found.notes:
            if note not in self._noted:
                self._noted.add(note)
                say(note)
        for problem in problems:
            say(f"✘ {problem}")

    async def _apply(self, body: dict[str, Any]) -> None:
        key = kind, _, name = key_of(body)
        known = key in self._applied
        applied = await self._plane.apply(body)
        self._applied.add(key)
        if not applied.changed or kind == RUN_KIND:
            return
        if known and kind == TASK_KIND:
            say(f"↻ Task {name} is now version {applied.body['status'].get('version', '?')}")
        elif known or self.announced:
            say(f"{'↻' if known else '+'} {kind} {name}")

    async def _forget(self, keys: set[Key]) -> None:
        """Take away what is no longer there. A Run stays: taking its text away asks for no end."""
        for key in keys:
            if key[0] != RUN_KIND:
                await self._plane.delete(*key)
                self._applied.discard(key)
                say(f"- {key[0]} {key[2]}")


async def _reload(project: Project, tasks: Tasks) -> None:
    """Look again after each save. The watch only wakes us: what was saved before it began it does not tell."""
    tasks.announced = True
    async for _ in watchfiles.awatch(
        project.folder,
        watch_filter=_matters,
        recursive=project.path.is_dir(),  # a file may lie in somebody's home
        step=_SETTLE,
        debounce=_SETTLE * 10,
        rust_timeout=_LOOK_ANYWAY,
        yield_on_timeout=True,
    ):
        if project.changed():
            await tasks.take(await project.look())


def _matters(_: watchfiles.Change, name: str) -> bool:
    path = Path(name)
    return path.suffix in (".py", ".yaml", ".yml") and not any(part in IGNORED for part in path.parts)


def say(text: str) -> None:
    """Print a line, at once."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()
