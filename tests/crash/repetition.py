"""Runs a scenario once: as it is, to learn its boundaries, or with something happening at one of them."""

import asyncio
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from tests.crash import checks, effects
from tests.crash.plant import DEADLINE, Places, Plant, StuckError, plant
from tests.crash.processes import Forge
from tests.crash.scenarios import Scenario
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from windlass.failpoints import Mode
from windlass_operator.failpoints import statements
from windlass_operator.ledger.migrate import migrate

_OFTEN: Final = 4
"""Reads of one name and role from which on they are taken for a loop that looks again and again."""
_OF_THEM: Final = 2
"""How many of those are boundaries: one more look that finds nothing is no other place to die at."""
_WRITES: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|SHARE)\b|pg_notify")
_MANY: Final = 12
"""The same for what is not known to be a read."""


@dataclass(frozen=True, order=True)
class Boundary:
    """One thing that happens at one call.

    Attributes:
        scenario: Name.
        at: ``role|call|n``.
        mode: What happens.
    """

    scenario: str
    at: str
    mode: Mode

    @property
    def role(self) -> str:
        """Of the process to which it happens."""
        return self.at.partition("|")[0]

    def __str__(self) -> str:
        return f"{self.scenario}/{self.at}/{self.mode}"

    @classmethod
    def parse(cls, text: str) -> "Boundary":
        """Read what :meth:`__str__` wrote."""
        scenario, _, rest = text.partition("/")
        at, _, mode = rest.rpartition("/")
        return cls(scenario, at, mode)  # type: ignore[arg-type]  # an unknown mode is refused where it is used


@dataclass(frozen=True)
class Ended:
    """What became of a repetition.

    Attributes:
        problems: What was wrong; empty for a pass.
        seen: Runs and effects, if it came to its end.
        passed: Names of the calls that were made, in order.
        struck: Whether the boundary was reached.
        seconds: How long it took.
        logs: The ends of the processes' logs, where there were problems.
    """

    problems: list[str]
    seen: checks.Seen | None
    passed: list[str]
    struck: bool
    seconds: float
    logs: str = ""


class Grounds:
    """What all repetitions share: servers and the databases that are copied.

    Args:
        postgres: For ledgers and worlds.
        s3: The object store.
        forge: Starts processes.
    """

    def __init__(self, postgres: PostgresServer, s3: S3Server, forge: Forge) -> None:
        self._postgres, self._s3, self._forge = postgres, s3, forge
        self._ledger = postgres.create_database()
        migrate(self._ledger)
        self._world = postgres.create_database()
        with psycopg.connect(self._world, autocommit=True) as world:
            world.execute(effects.TABLES)
        self._made = 0
        self._slowest = 0.0

    @asynccontextmanager
    async def places(self, *, s3: bool) -> AsyncIterator[Places]:
        """Make empty places for one repetition, and remove them."""
        self._made += 1
        name = f"rep-{self._made}"
        folder = Path(tempfile.mkdtemp(prefix="windlass-crash-"))
        bucket = self._s3.make_bucket(name) if s3 else None
        ledger, world = [await asyncio.to_thread(self._copy, template) for template in (self._ledger, self._world)]
        try:
            yield Places(folder, ledger, world, bucket)
        finally:
            await asyncio.to_thread(self._drop, [ledger, world])
            shutil.rmtree(folder, ignore_errors=True)

    def _copy(self, template: str) -> str:
        return self._postgres.create_database(template=_name(template))

    def _drop(self, uris: list[str]) -> None:
        with psycopg.connect(self._postgres.uri(), autocommit=True) as connection:
            for uri in uris:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(_name(uri))))

    async def run(
        self, scenario: Scenario, boundary: Boundary | None = None, baseline: checks.Seen | None = None
    ) -> Ended:
        """Run a scenario once and look at what it led to.

        A machine that is busy gets more time: as long as ten undisturbed runs took on it.
        """
        deadline = max(DEADLINE, 10 * self._slowest)
        began = time.monotonic()
        async with self.places(s3=scenario.s3) as places:
            if boundary is not None:
                (places.folder / "plan").write_text(f"{boundary.at}|{boundary.mode}")
            problems: list[str] = []
            seen: checks.Seen | None = None
            async with plant(self._forge, places) as made:
                try:
                    async with asyncio.timeout(deadline):
                        await scenario.drive(made)
                    seen = await checks.look(made.database, places.world)
                    problems = await checks.broken(made.database, places.ledger, places.world)
                except (TimeoutError, StuckError, AssertionError) as error:
                    problems = [await _stuck(made, error, deadline)]
            if baseline is not None and seen is not None and boundary is not None:
                problems += baseline.difference(seen, failures_too=boundary.role != "child")
            file = places.folder / "passed"
            passed = file.read_text().splitlines() if file.exists() else []
            struck = (places.folder / "struck").exists()
            logs = _logs(places.folder) if problems else ""
        seconds = time.monotonic() - began
        if boundary is None:
            self._slowest = max(self._slowest, seconds)
        return Ended(problems, seen, passed, struck, seconds, logs)


async def _stuck(made: Plant, error: Exception, deadline: float) -> str:
    rows = await made.rows("SELECT task, state, reason, message FROM run ORDER BY created_at")
    pods = await made.rows("SELECT name, state, ended_at IS NOT NULL AS ended, deleted_at IS NOT NULL AS gone FROM pod")
    there = [(pod["metadata"]["name"], pod.get("status", {}).get("phase")) for pod in made.kube.of("pods")]
    why = str(error) or f"not within {deadline:g} s"
    return (
        f"stuck, {why}: {made.waited_for}; runs {[tuple(r.values()) for r in rows]}; "
        f"pods {[tuple(p.values()) for p in pods]}; in the cluster {there}; deaths {made.deaths}"
    )


def boundaries(scenario: Scenario, passed: list[str], modes: tuple[Mode, ...]) -> list[Boundary]:
    """Return the boundaries of a scenario whose calls these were."""
    counts = Counter(line.rpartition("|")[0] for line in passed)
    found = []
    for line in passed:
        name, _, number = line.rpartition("|")
        often = counts[name] >= (_OFTEN if is_read(name.partition("|")[2]) else _MANY)
        if not often or int(number) <= _OF_THEM:
            found += [Boundary(scenario.name, line, mode) for mode in modes]
    return found


def is_read(call: str) -> bool:
    """Return whether a call only looks."""
    kind, _, what = call.partition(" ")
    if kind == "kubernetes":
        return what.split()[0] in ("get", "list")
    text = _statements().get(what, what)
    return kind == "ledger" and text.startswith(("SELECT", "WITH")) and not _WRITES.search(text)


@cache
def _statements() -> dict[str, str]:
    return {name: text for text, name in statements().items()}


def _logs(folder: Path) -> str:
    found = []
    for file in sorted(folder.glob("*.log")):
        lines = file.read_text(errors="replace").splitlines()
        found += [f"    {file.name}: {line[:300]}" for line in lines[-25:]]
    return "\n".join(found)


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[1]
