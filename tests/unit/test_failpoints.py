"""Failpoints: nothing when off, refused in a release, one boundary struck once."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from windlass import failpoints
from windlass.connection import Connection
from windlass.failpoints import MODES, Failpoints, FailpointsRefusedError
from windlass_operator.config import ConfigError
from windlass_operator.failpoints import install, verb_and_kind

_ROOT = Path(__file__).resolve().parents[2]
_WRAPPED = """
import sys, aiohttp, botocore.client, psycopg
import windlass_operator.cli, windlass_operator.processes, windlass.connection
import windlass_runner.main, windlass_runner.child, windlass_runner.sidecar
from windlass_runner.config import arm_failpoints
arm_failpoints("runner")
print(sorted(name for name in sys.modules if name.endswith("failpoints")))
methods = [psycopg.AsyncConnection.execute, botocore.client.BaseClient._make_api_call,
           aiohttp.ClientSession._request, windlass.connection.Connection.send, windlass.connection.Connection.receive]
print([method.__qualname__ for method in methods if "failpoints" in method.__code__.co_filename])
"""


def test_when_they_are_off_nothing_is_imported_and_nothing_is_wrapped() -> None:
    env = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    done = subprocess.run([sys.executable, "-c", _WRAPPED], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_calls_of_one_name_are_numbered_over_all_processes_of_a_scenario(tmp_path: Path) -> None:
    first, second, other = (Failpoints(tmp_path, role) for role in ("api", "api", "operator"))
    for points in (first, second, other, first):
        points.reach("ledger claim_runs")
    passed = (tmp_path / "passed").read_text().splitlines()
    assert passed == [
        f"{role}|ledger claim_runs|{n}" for role, n in (("api", 1), ("api", 2), ("operator", 1), ("api", 3))
    ]


def test_a_boundary_is_struck_once(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("api|s3 PutObject|2|lost\n")
    fates = [Failpoints(tmp_path, "api").reach("s3 PutObject") for _ in range(4)]
    assert fates == [None, "lost", None, None]
    assert (tmp_path / "struck").exists()


def test_before_kills_the_process_with_no_chance_to_clean_up(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("child|http POST /steps|1|before")
    code = (
        "import atexit; from pathlib import Path; from windlass.failpoints import Failpoints;"
        f"p = Failpoints(Path({str(tmp_path)!r}), 'child'); atexit.register(print, 'cleaned up');"
        "p.reach('http POST /steps'); print('lived')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_a_lost_reply_is_a_call_that_the_server_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan").write_text("runner|http POST /steps|1|lost")
    monkeypatch.setenv(failpoints.VARIABLE, str(tmp_path))
    for name in ("send", "receive"):
        monkeypatch.setattr(Connection, name, getattr(Connection, name))
    failpoints.install("runner")
    served: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                served.append(peer.recv(65_536))
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(*server.getsockname(), timeout=5)
        with pytest.raises(ConnectionResetError, match="failpoint"):
            connection.call("POST", "/runtime/v1/steps?x=1", "", b"{}")
        thread.join()
        connection.close()
    assert served[0].startswith(b"POST /runtime/v1/steps")


def test_a_release_image_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / failpoints.RELEASE_MARK).touch()
    with pytest.raises(FailpointsRefusedError, match="release image"):
        failpoints.prepare("runner")
    with pytest.raises(ConfigError, match="FAILPOINTS=allowed"):
        install("api")


@pytest.mark.parametrize("image", ["operator", "runner-image"])
def test_images_say_that_they_are_releases_unless_they_are_built_to_crash(image: str) -> None:
    text = (_ROOT / image / "Containerfile").read_text()
    assert f'RUN [ "$FAILPOINTS" = allowed ] || touch /opt/windlass/{failpoints.RELEASE_MARK}\n' in text


def test_a_folder_that_is_not_there_and_a_plan_without_a_mode_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FailpointsRefusedError, match="folder"):
        Failpoints(tmp_path / "missing", "api")
    (tmp_path / "plan").write_text("api|s3 PutObject|1|sometimes")
    with pytest.raises(FailpointsRefusedError, match=", ".join(MODES)):
        Failpoints(tmp_path, "api")


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/api/v1/namespaces/shop/pods", "create pods"),
        ("GET", "/api/v1/namespaces/shop", "get namespaces"),
        ("GET", "/api/v1/namespaces", "list namespaces"),
        ("GET", "/api/v1/namespaces/shop/pods/p-1/log?tailLines=1", "get pods/log"),
        ("PATCH", "/apis/windlass.dev/v1alpha1/namespaces/shop/runs/r/status", "patch runs/status"),
        ("GET", "/apis/windlass.dev/v1alpha1/runs?watch=true", "watch runs"),
        ("GET", "/apis/windlass.dev/v1alpha1/namespaces/shop/runs?limit=500", "list runs"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "create tokenreviews"),
        ("get", "/apis/windlass.dev/v1alpha1", "get /apis/windlass.dev/v1alpha1"),
        ("get", "/version", "get /version"),
    ],
)
def test_a_call_to_kubernetes_has_a_name_without_names_of_objects(method: str, path: str, name: str) -> None:
    assert verb_and_kind(method, f"https://10.0.0.1{path}") == name


def test_a_route_has_a_name_without_digests_and_cursors() -> None:
    assert failpoints.route(f"/runtime/v1/blobs/{'a' * 64}") == "/blobs/…"
    assert failpoints.route("/runtime/v1/steps?after=x%2Fy") == "/steps"
