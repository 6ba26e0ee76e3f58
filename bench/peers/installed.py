"""What is measured beside ours: pinned in this folder by hash, installed into ``.bench/peers`` when it is wanted."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.peers.go_programs import TEMPORAL

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
_TARGET: Final = ROOT / ".bench" / "peers"
PYTHON: Final = _TARGET / "venv" / "bin" / "python"
_PINS: Final = ("requirements.txt", "package.json", "package-lock.json")
_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64"}


class PeersMissingError(RuntimeError):
    """The peers cannot be installed here; the text says what is missing."""


def install() -> None:
    """Install what is pinned, unless exactly that is there.

    Raises:
        PeersMissingError: There is no npm, or no server for this kind of machine.
    """
    made = _TARGET / "made"
    wanted = "".join((HERE / name).read_text() for name in _PINS)
    if made.exists() and made.read_text() == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise PeersMissingError("bench-peers needs npm, which brings Restate's server. On Debian: apt-get install npm")
    restate_server()
    print("installing the peers into .bench/peers …")
    shutil.rmtree(_TARGET, ignore_errors=True)
    node = _TARGET / "node"
    node.mkdir(parents=True)
    for name in _PINS[1:]:
        shutil.copy(HERE / name, node)
    # No scripts: a package that must run something to be installed is not what was pinned.
    subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=node, check=True)
    subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parents[1])], check=True)
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "-q", "--python", str(PYTHON), "--require-hashes"]
    subprocess.run([*command, "-r", str(HERE / "requirements.txt")], check=True)
    made.write_text(wanted)


def restate_server() -> Path:
    """Return the path of Restate's server program.

    Raises:
        PeersMissingError: There is none for this kind of machine.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or not sys.platform.startswith("linux"):
        raise PeersMissingError(f"There is no pinned Restate server for {sys.platform} on {platform.machine()}.")
    return _TARGET / "node/node_modules/@restatedev" / f"restate-server-linux-{machine}" / "bin" / "restate-server"


def version(package: str) -> str:
    """Return the pinned version of a Python package, or of Restate's or Temporal's server."""
    if package == "temporal-server":
        return TEMPORAL.version.removeprefix("v")
    if package == "restate-server":
        return str(next(iter(json.loads((HERE / "package.json").read_text())["optionalDependencies"].values())))
    pins = (HERE / "requirements.txt").read_text().splitlines()
    return next(line for line in pins if line.startswith(f"{package}==")).partition("==")[2].split()[0]
