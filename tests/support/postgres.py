"""A real PostgreSQL for tests: one server for a test session, one database for each test module.

The server binaries come from the system; ``make setup`` checks for them. The data folder lies in memory where the
machine offers that, since these tests are about rules and races and not about disks.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import psycopg

_CANDIDATES: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)


class PostgresMissingError(RuntimeError):
    """The machine has no PostgreSQL server binaries."""


def binaries() -> Path:
    """Return the folder with ``initdb`` and ``postgres``.

    Raises:
        PostgresMissingError: There is none; the text says what to install.
    """
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent  # what stands on the path may be a link to a few of them
    if not _CANDIDATES:
        raise PostgresMissingError("No PostgreSQL server found. On Debian: apt-get install postgresql")
    return _CANDIDATES[0]


class PostgresServer:
    """One server process on a free port of the loopback interface."""

    def __init__(self, folder: Path, *, fsync: bool = False, connections: int = 200) -> None:
        self.folder = folder
        self.connections = connections
        self.port = _free_port()
        self.fsync = fsync
        # initdb and postgres refuse to run as root; every Debian with a server has this user.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def uri(self, database: str = "postgres") -> str:
        """Return the libpq URI of a database of this server."""
        return f"postgresql://windlass@127.0.0.1:{self.port}/{database}"

    def init(self) -> None:
        """Create the data folder."""
        if self._user:
            shutil.chown(self.folder, self._user)
        data = str(self.folder / "data")
        self._run(
            [str(binaries() / "initdb"), "-D", data, "-U", "windlass", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        )

    def follow(self, primary: "PostgresServer") -> None:
        """Make the data folder a copy of a running server's, which this one will follow as ``standby``."""
        if self._user:
            shutil.chown(self.folder, self._user)
        source = f"host=127.0.0.1 port={primary.port} user=windlass application_name=standby"
        command = [str(binaries() / "pg_basebackup"), "-D", str(self.folder / "data"), "-d", source, "-R"]
        self._run([*command, "-X", "stream", "-c", "fast"])

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [
            "-c",
            f"port={self.port}",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"max_connections={self.connections}",
        ]
        options += ["-c", f"unix_socket_directories={self.folder}", "-c", "max_wal_size=2GB"]
        if not self.fsync:
            options += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        with (self.folder / "log").open("ab") as log:
            self._launch(options, log)
        self._wait(options)

    def _launch(self, options: list[str], log: BinaryIO) -> None:
        self._process = subprocess.Popen(  # type: ignore[call-overload]  # user and group as keywords
            [str(binaries() / "postgres"), "-D", str(self.folder / "data"), *options],
            stdout=log,
            stderr=log,
            **self._as_user(),
        )

    def stop(self, *, immediate: bool = False) -> None:
        """End the server: fast shutdown, or as a crash would."""
        if self._process is None:
            return
        self._process.send_signal(3 if immediate else 2)
        self._process.wait(30)
        self._process = None

    def kill(self) -> None:
        """End the postmaster as the kernel does when memory is short; its children follow by themselves."""
        assert self._process is not None, "the server is not running"
        self._process.kill()
        self._process.wait(30)
        self._process = None

    def execute(self, statement: str) -> None:
        """Run a statement in the server's own database."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create_database(self, *, template: str = "template1") -> str:
        """Create a database and return its URI."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.uri(name)

    def _as_user(self) -> dict[str, object]:
        if not self._user:
            return {}
        entry = pwd.getpwnam(self._user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": str(self.folder)}

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, check=False, **self._as_user())  # type: ignore[call-overload]  # user and group as keywords
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.decode()[-2000:]}")

    def _wait(self, options: list[str]) -> None:
        import time

        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.uri(), connect_timeout=2).close()
                return
            ended = self._process is not None and self._process.poll() is not None
            said = (self.folder / "log").read_text()[-2000:]
            if time.monotonic() > deadline or (ended and "shared memory block" not in said):
                raise RuntimeError(f"PostgreSQL did not start: {said}")
            if ended:  # children of a killed one are still on their way out
                with (self.folder / "log").open("ab") as log:
                    self._launch(options, log)
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def postgres_server(
    *, fsync: bool = False, follows: PostgresServer | None = None, connections: int = 200
) -> Iterator[PostgresServer]:
    """Run a server for the duration of the block: an empty one, or a standby of another."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) and not fsync else None
    folder = Path(tempfile.mkdtemp(prefix="windlass-pg-", dir=base))
    folder.chmod(0o755)
    server = PostgresServer(folder, fsync=fsync, connections=connections)
    try:
        if follows is None:
            server.init()
        else:
            server.follow(follows)
        server.start()
        yield server
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)
