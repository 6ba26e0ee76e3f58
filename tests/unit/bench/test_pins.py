"""What ``make bench-peers`` installs is pinned by hash, and says nowhere where it comes from."""

import json
import re

from bench.peers.installed import HERE, version

LOCK = json.loads((HERE / "package-lock.json").read_text())["packages"]


def test_every_python_package_has_a_version_and_hashes() -> None:
    pins = re.split(r"\n(?=\S)", (HERE / "requirements.txt").read_text())
    packages = [pin for pin in pins if not pin.startswith("#")]
    assert len(packages) > 10
    assert all(re.match(r"[a-z0-9-]+==\S+ ", pin) and "--hash=sha256:" in pin for pin in packages)


def test_every_server_package_has_a_version_and_its_integrity() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["optionalDependencies"]
    locked = {path.removeprefix("node_modules/"): package for path, package in LOCK.items() if path}
    assert {name: package["version"] for name, package in locked.items()} == wanted
    assert all(package["integrity"].startswith("sha512-") for package in locked.values())


def test_no_address_stands_in_the_pins() -> None:
    files = ("requirements.in", "requirements.txt", "package.json", "package-lock.json")
    assert [
        name for name in files if "://" in (HERE / name).read_text() or "resolved" in (HERE / name).read_text()
    ] == []


def test_versions_are_told_as_they_are_pinned() -> None:
    assert f"dbos=={version('dbos')}" in (HERE / "requirements.in").read_text().splitlines()
    assert version("restate-server") == LOCK["node_modules/@restatedev/restate-server-linux-x64"]["version"]
