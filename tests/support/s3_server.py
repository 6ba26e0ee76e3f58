"""A real S3 server over a temporary folder, for tests: versitygw, the one that the test cluster runs."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from windlass_operator.config import S3Config

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
_START_LIMIT: Final = 20.0
"""Seconds to answer; a busy machine needs about one."""


class S3ServerMissingError(RuntimeError):
    """The machine has no S3 server program."""


class S3ServerFailedError(RuntimeError):
    """The program ended or did not begin to listen."""


def binary(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the program: ``WINDLASS_VERSITYGW``, else what the cluster's tool built, else one on the path.

    Raises:
        S3ServerMissingError: There is none; the text says how to get it.
    """
    if named := environment.get("WINDLASS_VERSITYGW"):
        if not Path(named).is_file():
            raise S3ServerMissingError(f"WINDLASS_VERSITYGW names {named}, which is no file.")
        return Path(named)
    cache = Path(environment.get("WINDLASS_CACHE") or "~/.cache/windlass").expanduser()
    built = [_CHECKOUT / ".cluster/bin/versitygw", *sorted(cache.glob("bin/versitygw-*/versitygw"), key=_age)]
    found = next((path for path in built if path.is_file()), None) or shutil.which("versitygw")
    if found is None:
        raise S3ServerMissingError(
            "No versitygw found. `make cluster-up` builds it once; or set WINDLASS_VERSITYGW to the program."
        )
    return Path(found)


class S3Server:
    """One server process on a port of the loopback interface. It can be stopped and started again on its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.access_key = "windlass-test"
        self.secret_key = secrets.token_hex(16)
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def config(self, bucket: str) -> S3Config:
        """Return how to reach a bucket of this server."""
        return S3Config(f"http://127.0.0.1:{self.port}", bucket, self.access_key, self.secret_key)

    def make_bucket(self, name: str) -> S3Config:
        """Create a bucket, which in this server is a folder, and return how to reach it."""
        (self._data / name).mkdir()
        return self.config(name)

    def start(self) -> None:
        """Start the process and wait until it listens.

        Raises:
            S3ServerFailedError: It ended, or does not listen in time; the text holds the end of its log.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        log = self.folder / "versitygw.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [binary(), "--port", f"127.0.0.1:{self.port}", "posix", self._data],
                env={"PATH": os.defpath, "ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        self.stop()
        raise S3ServerFailedError(f"versitygw does not listen: {log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End the process, and wait until it has ended."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server while the block runs."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
