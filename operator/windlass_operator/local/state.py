"""The state folder of local mode: who runs on it, and where the command line finds them."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from windlass_operator.domain.errors import WindlassError
from windlass_operator.local.postgres import LocalPostgres

FOLDER: Final = ".windlass"
"""In the folder where `windlass dev` is started. The command line looks for it there and above."""
_NOTE: Final = "dev.json"


class AlreadyRunningError(WindlassError):
    """Another process uses the folder."""

    code = "AlreadyRunning"


class State:
    """One state folder.

    Args:
        folder: Is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        ignore = self.folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Made by `windlass dev`; can be deleted while it does not run.\n*\n")
        self.postgres = LocalPostgres(self.folder / "postgres")
        self._note = self.folder / _NOTE

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for the duration of the block.

        Raises:
            AlreadyRunningError: Another process holds it; the text says which.
        """
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
            except OSError:
                raise AlreadyRunningError(f"`windlass dev` runs here already{self._where()}.") from None
            try:
                yield
            finally:
                self._note.unlink(missing_ok=True)

    def reset(self) -> None:
        """Delete everything that runs have left."""
        self.postgres.reset()
        shutil.rmtree(self.folder / "postgres", ignore_errors=True)

    def announce(self, url: str) -> None:
        """Leave a note for the command line."""
        made = self._note.with_suffix(".new")
        made.write_text(json.dumps({"url": url, "pid": os.getpid()}))
        made.rename(self._note)

    def _where(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            note = json.loads(self._note.read_text())
            return f" (process {note['pid']}, {note['url']})"
        return ""
