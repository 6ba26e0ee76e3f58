"""Reaching the API: by an address with TLS, and by what kubectl knows."""

import json
import os
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.support.fake_api import FakeApi, a_run, fake_api
from tests.unit.cli.conftest import Windlass
from windlass.cli.connect import Access
from windlass.errors import ApiError

_KUBECTL = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
  *"config view"*) printf shop ;;
  *"create token"*) printf made-by-kubectl ;;
  *port-forward*) [ -e {folder}/broken ] && {{ echo 'service "windlass-api" not found' >&2; exit 1; }}
    echo "Forwarding from 127.0.0.1:{port} -> 8080"; exec sleep 60 ;;
esac
"""


@pytest.fixture
def kubectl(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl that forwards to the fake API; returns its folder, in which ``calls`` says how it was called."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "kubectl"
    program.write_text(_KUBECTL.format(folder=folder, port=api.url.rpartition(":")[2]))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("URL", "TOKEN", "NAMESPACE"):
        monkeypatch.delenv(f"WINDLASS_{name}")
    return folder


def test_kubectl_says_where_who_and_in_which_namespace(api: FakeApi, kubectl: Path, windlass: Windlass) -> None:
    assert windlass("runs", "list", "--service-account", "ci").exit_code == 0
    assert (api.seen[0].path, api.seen[0].token) == ("/api/v1/namespaces/shop/runs", "made-by-kubectl")
    calls = (kubectl / "calls").read_text()
    assert "create token ci --audience=windlass -n shop" in calls
    assert "port-forward -n windlass-system service/windlass-api :8080" in calls


def test_a_context_that_is_named_wins_over_the_environment(
    api: FakeApi, kubectl: Path, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINDLASS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WINDLASS_TOKEN", "of-another-cluster")
    monkeypatch.setenv("WINDLASS_NAMESPACE", "elsewhere")
    assert windlass("runs", "list", "--context", "west", "--kubeconfig", "/k").exit_code == 0
    assert (api.seen[0].path, api.seen[0].token) == ("/api/v1/namespaces/shop/runs", "made-by-kubectl")
    calls = (kubectl / "calls").read_text().splitlines()
    assert all(call.startswith("--context west --kubeconfig /k ") for call in calls)


@pytest.mark.usefixtures("api")
def test_a_forward_that_fails_says_why_and_where_to_look(kubectl: Path, windlass: Windlass) -> None:
    (kubectl / "broken").touch()
    done = windlass("runs", "list")
    assert done.exit_code == 3
    assert 'service "windlass-api" not found' in done.stderr
    assert "windlass doctor" in done.stderr


@pytest.mark.usefixtures("api")
def test_without_kubectl_and_address_both_ways_are_named(windlass: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINDLASS_URL")
    monkeypatch.setenv("PATH", "/nowhere")
    done = windlass("runs", "list")
    assert (done.exit_code, "Set WINDLASS_URL and WINDLASS_TOKEN, or install kubectl" in done.stderr) == (3, True)


@pytest.mark.usefixtures("api")
def test_a_forward_that_died_and_a_token_that_ended_are_renewed(kubectl: Path) -> None:
    access = Access()
    client = access.client()
    forward = access._forward
    assert forward is not None
    forward.kill()
    forward.wait()
    access.mend(client, ApiError("Unauthorized", "the token has ended", status=401))
    calls = (kubectl / "calls").read_text()
    assert (calls.count("port-forward"), calls.count("create token")) == (2, 2)
    assert client.list_page()["items"] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "crt", folder / "key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=windlass", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", str(key)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return made, key


def test_an_address_with_tls_is_verified(
    certificate: tuple[Path, Path], windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    with fake_api(tls) as api:
        run = api.add(a_run(1))
        monkeypatch.setenv("WINDLASS_URL", f"{api.url}/")
        monkeypatch.setenv("WINDLASS_TOKEN", "a-token")
        refused = windlass("runs", "list", "-n", "shop")
        assert (refused.exit_code, "certificate verify failed" in refused.stderr) == (3, True)
        assert not api.seen
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert json.loads(windlass("runs", "list", "-n", "shop", "-o", "json").stdout) == [run]
        assert api.seen[0].token == "a-token"
