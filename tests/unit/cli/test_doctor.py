"""``windlass doctor``: what is wrong, and how to mend it."""

import base64
import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.fake_api import FakeApi
from tests.unit.cli.conftest import Windlass

_ACCOUNT = "system:serviceaccount:shop:checkout"
_CLAIMS = base64.urlsafe_b64encode(json.dumps({"sub": _ACCOUNT}).encode()).decode().rstrip("=")
_READY = {
    "items": [{"metadata": {"name": f"windlass-{n}"}, "status": {"availableReplicas": 1}} for n in ("api", "operator")]
}

_KUBECTL = """#!/bin/sh
echo "$@" >> {folder}/calls
for word in "$@"; do
  case $word in version|api-resources|get|create|config) break ;; esac
done
[ "$word" = create ] && cat > {folder}/stdin
if [ -e {folder}/$word.fails ]; then cat {folder}/$word.fails >&2; exit 1; fi
cat {folder}/$word
"""


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl of a healthy cluster; what a subcommand prints is a file of its name."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "kubectl").write_text(_KUBECTL.format(folder=folder))
    (folder / "kubectl").chmod(0o755)
    (folder / "version").write_text('{"serverVersion": {"gitVersion": "v1.34.1"}}')
    (folder / "api-resources").write_text("runs.windlass.dev\ntasks.windlass.dev\n")
    (folder / "get").write_text(json.dumps(_READY))
    (folder / "create").write_text("true\n" * 5)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def healthy(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    monkeypatch.setenv("WINDLASS_TOKEN", f"e30.{_CLAIMS}.x")
    api.version = version("windlass")
    return api


def _found(windlass: Windlass) -> dict[str, dict[str, str]]:
    done = windlass("doctor", "-o", "json")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.exit_code == (3 if "fail" in [f["state"] for f in found.values()] else 0)
    return found


@pytest.mark.usefixtures("healthy", "kubectl")
def test_a_sound_installation_is_ok_line_by_line(windlass: Windlass) -> None:
    done = windlass("doctor")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    checks = ["cluster", "resources", "control", "api", "versions", "token", "ledger", "permissions"]
    assert [line.split()[:2] for line in lines] == [["ok", check] for check in checks]
    assert f"{_ACCOUNT} may start, read and cancel runs in shop" in done.stdout


@pytest.mark.usefixtures("healthy")
def test_permissions_are_asked_of_kubernetes_in_the_tokens_name(kubectl: Path, windlass: Windlass) -> None:
    (kubectl / "create").write_text("false\ntrue\ntrue\ntrue\nfalse\n")
    found = _found(windlass)["permissions"]
    assert found["state"] == "fail"
    assert f"{_ACCOUNT} may not create runs, get runs/log" in found["message"]
    assert found["mend"].startswith(
        "kubectl -n shop create rolebinding windlass-checkout --clusterrole=edit --serviceaccount=shop:checkout"
    )
    assert f"--as {_ACCOUNT}" in (kubectl / "calls").read_text()
    first = json.loads((kubectl / "stdin").read_text().splitlines()[0])
    assert first["kind"] == "SelfSubjectAccessReview"
    assert first["spec"]["resourceAttributes"]["resource"] == "runs"


@pytest.mark.usefixtures("healthy")
def test_who_may_not_ask_is_told_so_and_it_is_no_failure(kubectl: Path, windlass: Windlass) -> None:
    (kubectl / "create.fails").write_text("Error from server (Forbidden): users is forbidden\n")
    (kubectl / "get.fails").write_text("Error from server (Forbidden): deployments.apps is forbidden\n")
    found = _found(windlass)
    assert (found["permissions"]["state"], found["control plane"]["state"]) == ("warn", "warn")


@pytest.mark.usefixtures("healthy")
def test_a_cluster_without_windlass_says_how_to_install_it(
    kubectl: Path, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WINDLASS_URL")
    (kubectl / "api-resources").write_text("")
    (kubectl / "get").write_text('{"items": []}')
    found = _found(windlass)
    assert found["resources"]["state"] == found["control plane"]["state"] == found["api"]["state"] == "fail"
    assert "helm install windlass" in found["resources"]["mend"]
    assert "permissions" not in found


@pytest.mark.usefixtures("kubectl")
def test_postgres_away_is_the_ledgers_line(healthy: FakeApi, windlass: Windlass) -> None:
    healthy.refuse["/runs"] = (503, {"code": "LedgerUnavailable", "message": "PostgreSQL does not answer."})
    found = _found(windlass)
    assert found["api"]["state"] == "ok"
    assert found["ledger"]["message"] == "LedgerUnavailable: PostgreSQL does not answer."
    assert "windlass-operator doctor" in found["ledger"]["mend"]


@pytest.mark.usefixtures("kubectl")
def test_a_token_that_is_refused_is_the_tokens_line(healthy: FakeApi, windlass: Windlass) -> None:
    healthy.refuse["/runs"] = (401, {"code": "Unauthorized", "message": "The token is not valid for this API."})
    found = _found(windlass)
    assert (found["token"]["state"], "ledger" in found) == ("fail", False)
    assert "--audience=windlass" in found["token"]["mend"]


@pytest.mark.usefixtures("kubectl")
def test_another_release_is_a_warning(healthy: FakeApi, windlass: Windlass) -> None:
    healthy.version = "9.9.9"
    assert _found(windlass)["versions"]["state"] == "warn"


def test_without_kubectl_the_environment_is_enough(
    healthy: FakeApi, windlass: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = _found(windlass)
    assert (found["kubectl"]["state"], found["permissions"]["state"]) == ("warn", "ok")
    monkeypatch.setenv("WINDLASS_URL", f"{healthy.url}/elsewhere")
    assert _found(windlass)["api"]["state"] == "fail"
    monkeypatch.delenv("WINDLASS_URL")
    assert _found(windlass)["kubectl"]["mend"] == "Install kubectl, or set WINDLASS_URL and WINDLASS_TOKEN."


@pytest.mark.usefixtures("kubectl")
def test_a_gateway_that_lets_only_the_api_through_is_no_failure(healthy: FakeApi, windlass: Windlass) -> None:
    for path in ("/healthz", "/openapi.json"):
        healthy.refuse[path] = (404, "no such page")
    found = _found(windlass)
    assert (found["api"]["state"], found["versions"]["state"], found["ledger"]["state"]) == ("ok", "warn", "ok")
