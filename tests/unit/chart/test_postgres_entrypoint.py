"""The entry point of the embedded database's image, run here with the machine's own PostgreSQL."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import binaries
from tests.unit.chart.rendering import CHART

SCRIPT = CHART / "postgres/windlass-postgres"


class Database:
    """One volume, and the container's process on it when it is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # As in the image: not root, whom PostgreSQL refuses.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam("postgres")
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.alive: subprocess.Popen[bytes] | None = None

    def environment(self, password: str) -> dict[str, str]:
        return {
            "PATH": f"{binaries()}:/usr/bin:/bin",
            "WINDLASS_POSTGRES_VOLUME": str(self.folder),
            "WINDLASS_POSTGRES_SOCKETS": str(self.folder),
            "POSTGRES_PASSWORD": password,
            "WINDLASS_POSTGRES_PATIENCE": "10",
        }

    def run(self, password: str, patience: int = 10) -> "subprocess.CompletedProcess[str]":
        """Run to the end; for starts that must fail."""
        environment = {**self.environment(password), "WINDLASS_POSTGRES_PATIENCE": str(patience)}
        command = ["sh", str(SCRIPT), "run", "-c", f"port={self.port}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **self._user)

    def start(self, password: str) -> None:
        command = ["sh", str(SCRIPT), "run", "-c", f"port={self.port}"]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.environment(password), stdout=output, stderr=output, **self._user
            )
        deadline = time.monotonic() + 60
        while self._ready() != 0:
            assert self.process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < deadline, (self.folder / "output").read_text()
            time.sleep(0.05)

    def _ready(self) -> int:
        environment = {**self.environment(""), "PGPORT": str(self.port)}
        return subprocess.run(["sh", str(SCRIPT), "ready"], env=environment, check=False, **self._user).returncode

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(2)  # the image's STOPSIGNAL
        return self.process.wait(20)

    def kill(self) -> None:
        """Kill the server as the kernel does, and leave behind what it leaves: a lock that names a live process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        lock = self.folder / "data/postmaster.pid"
        _, _, rest = lock.read_text().partition("\n")
        self.alive = subprocess.Popen(["sleep", "60"], **self._user)
        lock.write_text(f"{self.alive.pid}\n{rest}")

    def ask(self, password: str, question: str) -> Any:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="windlass", password=password, dbname="windlass", connect_timeout=5
        ) as connection:
            cursor = connection.execute(question.encode())
            row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


@pytest.fixture
def database() -> Iterator[Database]:
    folder = Path(tempfile.mkdtemp(prefix="windlass-entrypoint-"))  # not tmp_path: another user must reach it
    database = Database(folder)
    yield database
    if database.process is not None and database.process.poll() is None:
        database.process.send_signal(3)  # immediate shutdown
        database.process.wait(20)
    if database.alive is not None:
        database.alive.kill()
        database.alive.wait()
    shutil.rmtree(folder, ignore_errors=True)


def test_the_first_start_makes_a_durable_database_and_later_ones_keep_it(database: Database) -> None:
    database.start("first ' password")
    assert database.ask("first ' password", "SHOW fsync") == "on"
    assert database.ask("first ' password", "SHOW synchronous_commit") == "on"
    assert database.ask("first ' password", "SHOW data_checksums") == "on"
    with pytest.raises(psycopg.OperationalError, match="password"):
        database.ask("wrong", "SELECT 1")
    database.ask("first ' password", "CREATE TABLE kept AS SELECT 7 AS n")
    assert database.stop() == 0, "the fast shutdown"

    # The Secret is the truth: another password there holds from the next start on.
    database.start("second")
    assert database.ask("second", "SELECT n FROM kept") == 7
    with pytest.raises(psycopg.OperationalError, match="password"):
        database.ask("first ' password", "SELECT 1")
    assert "second" not in (database.folder / "output").read_text(), "no password in the log"


def test_a_first_start_that_was_cut_short_begins_again(database: Database) -> None:
    half = database.folder / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("15\n")
    shutil.chown(half, *(("postgres", "postgres") if os.geteuid() == 0 else (os.geteuid(), os.getegid())))
    database.start("password")
    assert database.ask("password", "SELECT 1") == 1
    assert not half.exists()


def test_data_of_another_major_version_is_refused_with_what_to_do(database: Database) -> None:
    (database.folder / "data").mkdir()
    (database.folder / "data/PG_VERSION").write_text("9\n")
    done = database.run("password")
    assert done.returncode == 1
    assert "dump and restore" in done.stderr


def test_a_server_that_was_killed_comes_back_with_its_data(database: Database) -> None:
    """In a container each server is process 1, so the lock that it leaves behind seems to be a live server's."""
    database.start("password")
    database.ask("password", "CREATE TABLE kept AS SELECT 7 AS n")
    database.kill()
    database.start("password")
    assert database.ask("password", "SELECT n FROM kept") == 7


def test_two_servers_never_share_a_volume(database: Database) -> None:
    database.start("password")
    done = database.run("password", patience=1)
    assert done.returncode == 1
    assert "another server still uses" in done.stderr
    assert database.ask("password", "SELECT 1") == 1


@pytest.mark.parametrize("password", ["", "two\nlines"])
def test_a_password_that_cannot_work_is_refused(database: Database, password: str) -> None:
    done = database.run(password)
    assert done.returncode == 1
    assert "POSTGRES_PASSWORD" in done.stderr
    assert not (database.folder / "data").exists()
