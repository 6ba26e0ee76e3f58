"""A PostgreSQL for the length of a test session: in memory where there is room for it, and without fsync."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from windlass_operator.domain.errors import WindlassError
from windlass_operator.local.keeping import Lifeline

_PLACES: Final = ("/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")
_PATIENCE: Final = 60.0
_SERVICE_USER: Final = "postgres"
"""PostgreSQL refuses to run as root; every package of it makes this user."""


class PostgresMissingError(WindlassError):
    """The machine has no PostgreSQL server."""

    code = "PostgresMissing"

    def __init__(self) -> None:
        super().__init__(
            "No PostgreSQL server was found. Install one (Debian, Ubuntu: apt-get install postgresql; macOS: brew "
            "install postgresql@17), or give WINDLASS_TEST_POSTGRES_URI the URI of one in which databases may be made."
        )


class PostgresNotStartedError(WindlassError):
    """It is there, and does not run."""

    code = "PostgresNotStarted"


@contextmanager
def throwaway_postgres() -> Iterator[str]:
    """Run a server for the duration of the block and yield the URI of its database ``postgres``.

    Raises:
        PostgresMissingError: There is none.
        PostgresNotStartedError: It does not start; the text has its last words.
    """
    binaries = _binaries()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of our own in it
    folder = Path(tempfile.mkdtemp(prefix="windlass-testing-", dir=base))
    lifeline = Lifeline()
    port = _free_port()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _SERVICE_USER)
        init = [f"{binaries}/initdb", "-D", f"{folder}/data", "-U", "windlass", "-A", "trust", "-E", "UTF8"]
        _run([*init, "--locale=C", "--no-sync"], folder)
        serve = [f"{binaries}/postgres", "-D", f"{folder}/data", "-c", f"port={port}", "-c", "fsync=off"]
        serve += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        serve += ["-c", "full_page_writes=off", "-c", "synchronous_commit=off"]
        with (folder / "log").open("ab") as log:
            command = lifeline.command(_as_service(serve), stop=signal.SIGQUIT, grace=2)
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", pass_fds=(lifeline.read,))
        uri = f"postgresql://windlass@127.0.0.1:{port}/postgres"
        try:
            _wait(uri, process, folder / "log")
            yield uri
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    finally:
        lifeline.close()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    found = shutil.which("initdb")
    if found and shutil.which("postgres"):
        return Path(found).resolve().parent
    places = [path for place in _PLACES for path in Path(place).glob("*/bin") if (path / "initdb").exists()]
    if not places:
        raise PostgresMissingError
    return max(
        places, key=lambda path: [int(part) for part in path.parent.name.split("@")[-1].split(".") if part.isdigit()]
    )


def _as_service(command: list[str]) -> list[str]:
    """Return a command that does not run as root."""
    if os.geteuid() != 0:
        return command
    user = pwd.getpwnam(_SERVICE_USER)
    setpriv = shutil.which("setpriv") or "/usr/bin/setpriv"
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(_as_service(command), capture_output=True, check=False, cwd=folder)
    if done.returncode != 0:
        raise PostgresNotStartedError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")


def _wait(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(uri, connect_timeout=2).close()
            return
        if process.poll() is not None or time.monotonic() > until:
            raise PostgresNotStartedError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
