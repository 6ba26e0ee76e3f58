"""Run other programs: quietly, with a heartbeat, and with an error that shows what they said."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import ClusterError
from .progress import heartbeat

TAIL_LINES = 15


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines, indented for an error message."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    what: str,
    todo: str = "",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        ClusterError: It could not be started or did not exit 0; the message holds its last lines.
    """
    command = [str(part) for part in argv]
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        try:
            with heartbeat(what):
                done = subprocess.run(
                    command,
                    env=dict(environment) if environment is not None else None,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
        except FileNotFoundError as error:
            raise ClusterError(f"{what}: {command[0]} is not installed", todo=todo) from error
        output.seek(0)
        text = output.read()
    if done.returncode != 0:
        raise ClusterError(
            f"{what} failed (exit code {done.returncode}):\n{tail(text)}", where=" ".join(command)[:300], todo=todo
        )
    return text


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Tell whether a program exits 0; for checks whose 'no' is an ordinary answer."""
    try:
        done = subprocess.run([str(part) for part in argv], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
