"""The cluster survives what machines do to it. These tests kill and restart the cluster that the e2e suite runs on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import containers, pki
from e2e.cluster.addons import VOLUMES
from e2e.cluster.containerfiles import copied_paths
from e2e.cluster.errors import ClusterError
from e2e.cluster.image_store import ImageStore
from e2e.cluster.kubeapi import ApiError, KubeApi
from e2e.cluster.ownership import refuse_foreign
from e2e.cluster.pip_settings import collect
from e2e.cluster.processes import Processes, Spec
from e2e.cluster.settings import PACKAGE, Settings
from e2e.cluster.system_images import BUSYBOX_IMAGE

SETTINGS = Settings.from_environment()
NEEDS_CLUSTER = pytest.mark.skipif(
    SETTINGS.existing or os.geteuid() != 0, reason="only root can kill a cluster, and only one that is ours"
)
POD_S = 60.0


def cluster(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "e2e.cluster", command],
        cwd=PACKAGE.parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def api() -> Iterator[KubeApi]:
    """Give the API of a healthy cluster, and leave it without our objects."""
    done = cluster("up")
    assert done.returncode == 0, done.stderr
    client = KubeApi(SETTINGS.pki)
    yield client
    client.delete("/api/v1/namespaces/default/configmaps/survivor")
    for name in ("before", "after"):
        client.delete(f"/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=0")


def run_pod(api: KubeApi, name: str, *command: str) -> None:
    """Run a pod and wait until its container has started (or ended well)."""
    container = {"name": "main", "image": BUSYBOX_IMAGE, "imagePullPolicy": "IfNotPresent", "command": list(command)}
    meta = {"name": name, "namespace": "default"}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    await_phase(api, name, {"Running", "Succeeded"} if "sleep" in command else {"Succeeded"})


def await_phase(api: KubeApi, name: str, wanted: set[str]) -> None:
    deadline = time.monotonic() + POD_S
    while (phase := api.get(f"/api/v1/namespaces/default/pods/{name}")["status"].get("phase")) not in wanted:
        assert time.monotonic() < deadline, f"pod {name} is {phase}, not {wanted}"
        time.sleep(0.1)


def kill_everything() -> None:
    """Kill every process of the cluster as a crash would: all at once, without a word."""
    processes = Processes(SETTINGS.run, SETTINGS.logs)
    for process in processes.alive().values():
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes.alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@NEEDS_CLUSTER
@pytest.mark.timeout(300)
def test_cluster_survives_the_sudden_death_of_all_its_processes(api: KubeApi) -> None:
    meta = {"name": "survivor", "namespace": "default"}
    api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"kept": "yes"}})
    run_pod(api, "before", "sleep", "600")
    kill_everything()

    assert cluster("status").returncode == 3
    repaired = cluster("up")

    assert repaired.returncode == 0, repaired.stderr
    assert api.get("/api/v1/namespaces/default/configmaps/survivor")["data"] == {"kept": "yes"}
    assert cluster("status").returncode == 0
    run_pod(api, "after", "nslookup", "kubernetes.default.svc.cluster.local")


@NEEDS_CLUSTER
@pytest.mark.timeout(300)
def test_cluster_comes_back_after_the_machine_restarted(api: KubeApi) -> None:
    """A restart ends containers too, and takes the address, the bridge and the boot id, but not the mounts' folders."""
    run_pod(api, "before", "sleep", "600")
    kill_everything()
    containers.end_all(SETTINGS)
    subprocess.run(["ip", "link", "delete", "cni0"], check=True)
    subprocess.run(["ip", "address", "delete", "10.255.0.1/32", "dev", "lo"], check=True)
    marker = SETTINGS.state / "owner.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "boot": "an earlier one"}))

    repaired = cluster("up")

    assert repaired.returncode == 0, repaired.stderr
    run_pod(api, "after", "nslookup", "kubernetes.default.svc.cluster.local")


@NEEDS_CLUSTER
@pytest.mark.timeout(300)
def test_up_restarts_the_one_process_that_died(api: KubeApi) -> None:
    processes = Processes(SETTINGS.run, SETTINGS.logs)
    before = processes.alive()
    os.kill(before["kubelet"].pid, signal.SIGKILL)

    assert cluster("up").returncode == 0

    after = processes.alive()
    assert [name for name in before if after[name].pid != before[name].pid] == ["kubelet"]
    run_pod(api, "after", "nslookup", "kubernetes.default.svc.cluster.local")


@NEEDS_CLUSTER
@pytest.mark.usefixtures("api")
def test_up_of_a_healthy_cluster_is_immediate_and_starts_nothing() -> None:
    before = Processes(SETTINGS.run, SETTINGS.logs).alive()
    started = time.monotonic()
    done = cluster("up")
    took = time.monotonic() - started

    assert "healthy" in done.stdout
    assert took < 3, "about 0.4 s on an idle machine"
    assert Processes(SETTINGS.run, SETTINGS.logs).alive() == before


@NEEDS_CLUSTER
@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("command", ["up", "down"])
def test_a_live_cluster_of_another_checkout_is_refused_by_name(command: str, tmp_path: Path) -> None:
    done = cluster(command, WINDLASS_CHECKOUT=str(tmp_path), FORCE="")

    assert done.returncode == 1
    assert str(SETTINGS.checkout) in done.stderr
    assert "FORCE=1" in done.stderr
    assert "WINDLASS_CLUSTER=existing" in done.stderr
    assert cluster("status").returncode == 0


@NEEDS_CLUSTER
def test_a_released_volume_is_emptied_and_offered_again(api: KubeApi) -> None:
    name = VOLUMES[-1]
    path = f"/api/v1/persistentvolumes/{name}"
    phase = api.get(path)["status"]["phase"]
    if phase != "Available":
        pytest.skip(f"{name} is {phase}: something that runs here needs it")
    (SETTINGS.volumes / name / "old").touch()
    # A claim that never existed under this uid is, to Kubernetes, one that was deleted.
    claim = {
        "kind": "PersistentVolumeClaim",
        "name": "gone",
        "namespace": "default",
        "uid": "00000000-0000-0000-0000-000000000000",
    }
    api.merge(path, {"spec": {"claimRef": claim}})
    deadline = time.monotonic() + 30
    while api.get(path)["status"]["phase"] != "Released":
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert cluster("up").returncode == 0

    assert not (SETTINGS.volumes / name / "old").exists()
    while api.get(path)["status"]["phase"] != "Available":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def settings_in(state: Path) -> Settings:
    return Settings.from_environment({"WINDLASS_CLUSTER_DIR": str(state), "WINDLASS_CHECKOUT": str(state / "checkout")})


def test_a_pid_that_was_reused_is_never_ended(tmp_path: Path) -> None:
    """The pid file names a live process, but not when that one started: somebody else has the pid now."""
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        processes = Processes(tmp_path / "run", tmp_path / "logs")
        processes.ensure(Spec("victim", ("true",)))
        file = tmp_path / "run" / "victim.pid"
        recorded = json.loads(file.read_text())
        # Both started within one tick, perhaps; a pid is only used again long after.
        recorded |= {"pid": innocent.pid, "start_ticks": recorded["start_ticks"] - 1_000}
        file.write_text(json.dumps(recorded))

        processes.stop(["victim"])

        assert innocent.poll() is None
        assert not file.exists()
    finally:
        innocent.kill()
        innocent.wait()


def test_a_dead_cluster_of_another_checkout_stands_in_nobodys_way(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (tmp_path / "owner.json").write_text(json.dumps({"checkout": "/elsewhere", "since": "2026-01-01", "boot": "x"}))

    refuse_foreign(settings, "up")


def test_a_process_that_dies_while_starting_is_shown_with_its_last_words(tmp_path: Path) -> None:
    processes = Processes(tmp_path / "run", tmp_path / "logs")
    processes.ensure(Spec("doomed", ("sh", "-c", "echo the disk is full; exit 1")))

    with pytest.raises(ClusterError, match="the disk is full"):
        processes.wait("an answer", lambda: False, needs=("doomed",), timeout_s=10)


def test_keys_are_completed_after_a_crash_in_the_midst_of_making_them(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    pki.ensure(settings)
    authority = (settings.pki / "ca.crt").read_bytes()
    kept = (settings.pki / "admin.crt").read_bytes()
    (settings.pki / "kubelet.crt").unlink()
    (settings.pki / "kubelet.csr").write_text("torn")
    (settings.pki / "kubelet.tmp").touch()

    pki.ensure(settings)

    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", settings.pki / "ca.crt", settings.pki / "kubelet.crt"], check=False
    )
    assert verified.returncode == 0
    assert (settings.pki / "ca.crt").read_bytes() == authority
    assert (settings.pki / "admin.crt").read_bytes() == kept
    assert settings.pki.stat().st_mode & 0o077 == 0


def test_down_of_an_existing_cluster_is_refused() -> None:
    done = cluster("down", WINDLASS_CLUSTER="existing")

    assert done.returncode == 1
    assert "not ended here" in done.stderr


def test_an_image_depends_on_what_its_containerfile_copies() -> None:
    text = (
        'FROM x\nCOPY --chown=1:1 a.txt b/ \\\n  /c/\nADD ["d e", "/f"]\nCOPY --from=build /venv /venv\nRUN COPY no\n'
    )

    assert copied_paths(text) == ["a.txt", "b/", "d e"]


def test_builds_get_the_pip_settings_of_the_machine_and_no_path_that_is_not_there(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "x.whl").touch()
    found = collect({"PIP_FIND_LINKS": f"{wheels} /not/there", "PIP_RETRIES": "7", "PIP_TARGET": "/x", "HOME": "/y"})

    assert found.mounts == (str(wheels),)
    assert f"find-links = {wheels}\n" in found.text
    assert "retries = 7\n" in found.text
    assert "target" not in found.text


def push(layout: Path, content: str, *layers: bytes) -> None:
    """Do what buildah does: put an image into an OCI layout."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": "x", "digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": put(content.encode()), "layers": [put(layer) for layer in layers]}
    index_file = layout / "index.json"
    index = json.loads(index_file.read_text()) if index_file.exists() else {"manifests": []}
    pushed = put(json.dumps(manifest).encode()) | {"annotations": {"org.opencontainers.image.ref.name": content}}
    index["manifests"].append(pushed)
    index_file.write_text(json.dumps(index))


def test_an_image_travels_without_the_layers_that_the_node_has(tmp_path: Path) -> None:
    store = ImageStore(Settings.from_environment({"WINDLASS_CACHE": str(tmp_path)}))
    push(store.layout, "c1", b"base", b"app")
    store.add("docker.io/windlass/x:dev", "c1")
    base = f"sha256:{hashlib.sha256(b'base').hexdigest()}"

    with store.archive("docker.io/windlass/x:dev", "c1", without={base}) as archive, tarfile.open(archive) as tar:
        names = tar.getnames()

    assert f"blobs/{base.replace(':', '/')}" not in names
    assert f"blobs/sha256/{hashlib.sha256(b'app').hexdigest()}" in names
    assert {"oci-layout", "index.json"} <= set(names)


def test_the_image_store_keeps_two_builds_of_an_image_and_every_layer_they_need(tmp_path: Path) -> None:
    store = ImageStore(Settings.from_environment({"WINDLASS_CACHE": str(tmp_path)}))
    for number in range(4):
        push(store.layout, f"c{number}", b"base", f"app {number}".encode())
        store.add("docker.io/windlass/x:dev", f"c{number}")
        os.utime(store.record("docker.io/windlass/x:dev", f"c{number}"), (number, number))

    kept = [store.has("docker.io/windlass/x:dev", f"c{number}") for number in range(4)]
    blobs = {file.read_bytes() for file in (store.layout / "blobs" / "sha256").iterdir()}

    assert kept == [False, False, True, True]
    assert {b"base", b"app 2", b"app 3"} <= blobs
    assert not {b"app 0", b"app 1"} & blobs


def test_an_api_that_is_away_is_told_apart_from_one_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(ApiError) as raised:
        KubeApi(tmp_path).get("/readyz")

    assert raised.value.status == 0
