"""Whose cluster it is. One machine has one cluster: its ports, its bridge and its address exist once."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from .errors import ClusterError
from .processes import Processes, boot_id
from .settings import Settings


@dataclass(frozen=True)
class Owner:
    """The marker in the state folder."""

    checkout: str
    since: str
    boot: str


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold the state folder for ourselves, so that two `up` at once cannot start everything twice.

    The lock is on the folder itself: no lock file is left behind, and the kernel frees it when we are killed.
    """
    while True:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o755)
        folder = os.open(settings.state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(
                    "another `up` or `down` of this cluster is at work",
                    where=str(settings.state),
                    todo="wait for it; `python3 -m e2e.cluster status` shows how far it is",
                ) from error
            if _still_there(settings.state, folder):  # a `down` may have removed it between open and lock
                yield
                return
        finally:
            os.close(folder)


def _still_there(path: Path, folder: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(folder).st_ino
    except FileNotFoundError:
        return False


def read(settings: Settings) -> Owner | None:
    """Return the owner, or None where no cluster was begun (or its marker is torn)."""
    try:
        return Owner(**json.loads((settings.state / "owner.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def claim(settings: Settings) -> None:
    """Write ourselves down as the owner. `since` of a cluster that we repair stays."""
    owner = read(settings)
    mine = owner is not None and owner.checkout == str(settings.checkout)
    since = owner.since if owner and mine else datetime.now(UTC).isoformat(timespec="seconds")
    file = settings.state / "owner.json"
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(Owner(str(settings.checkout), since, boot_id()))))
    scratch.replace(file)


def foreign(settings: Settings) -> Owner | None:
    """Return the owner if it is another checkout."""
    owner = read(settings)
    return owner if owner and owner.checkout != str(settings.checkout) else None


def refuse_foreign(settings: Settings, verb: str) -> None:
    """Stop before another checkout's live cluster is touched, unless FORCE=1.

    Raises:
        ClusterError: The cluster is alive and belongs to another checkout.
    """
    owner = foreign(settings)
    if not owner or settings.force or not Processes(settings.run, settings.logs).alive():
        return
    raise ClusterError(
        f"a cluster of another checkout runs on this machine: {owner.checkout}, since {owner.since}",
        where=str(settings.state),
        todo=f"use it: `export WINDLASS_CLUSTER=existing KUBECONFIG={owner.checkout}/.cluster/kubeconfig`; "
        f"or end it, with all that is in it: `FORCE=1 python3 -m e2e.cluster {verb}`",
    )
