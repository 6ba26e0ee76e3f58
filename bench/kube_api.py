"""A Kubernetes API server without a cluster: etcd and kube-apiserver as plain processes on the loopback interface.

Enough for whatever only reads and writes objects, and it disturbs no cluster on the machine. The programs are those
that ``make cluster-up`` built.
"""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from e2e.cluster import pki
from e2e.cluster.settings import API_PORT, NODE_IP, Settings
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.kube.kinds import NAMESPACES, RUNS, Kind
from windlass_operator.kube.transport import Transport, find_configuration

_CRDS: Final = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_ROOT: Final = Path(__file__).resolve().parents[1]


class ProgramsMissingError(RuntimeError):
    """The cluster's programs were never built."""


def _programs(cache: Path) -> Path:
    built = sorted(cache.glob("bin/kubernetes-*/kubernetes"), key=lambda file: file.stat().st_mtime)
    if not built:
        raise ProgramsMissingError("No kube-apiserver in the cache. Run `make cluster-up` once: it builds it.")
    return built[-1].parent


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _commands(folder: Path, programs: Path, keys: Path, port: int) -> list[list[str]]:
    etcd = f"http://127.0.0.1:{_free_port()}"
    return [
        [
            str(programs / "etcd"),
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{_free_port()}",
            "--log-level=error",
            "--unsafe-no-fsync",
        ],
        [
            str(programs / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={port}",
            f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--service-account-key-file={keys}/sa.pub",
            f"--service-account-signing-key-file={keys}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--profiling=false",
        ],
    ]


@contextlib.contextmanager
def _processes() -> Iterator[Path]:
    """Run both for the duration of the block; gives the administrator's kubeconfig."""
    settings = Settings.from_environment()
    programs = _programs(settings.cache)
    folder = Path(tempfile.mkdtemp(prefix="windlass-api-"))
    running: list[subprocess.Popen[bytes]] = []
    try:
        own = replace(settings, state=folder)
        pki.ensure(own)
        port = _free_port()
        kubeconfig = folder / "kubeconfig"
        text = pki.kubeconfig(own.pki, "admin").replace(f"https://{NODE_IP}:{API_PORT}", f"https://127.0.0.1:{port}")
        pki.write_private(kubeconfig, text)
        for command in _commands(folder, programs, own.pki, port):
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        yield kubeconfig
    finally:
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def kube_api(*namespaces: str) -> AsyncIterator[tuple[Path, KubeClient]]:
    """Run an API server that serves our kinds and has these namespaces; gives its kubeconfig and a client."""
    with _processes() as kubeconfig:
        client = KubeClient(Transport(await find_configuration({"KUBECONFIG": str(kubeconfig)})))
        try:
            await _until_it_serves(client)
            for file in sorted((_ROOT / "crds").glob("*.yaml")):
                await client.create(_CRDS, None, yaml.safe_load(file.read_text()))
            for name in namespaces:
                await client.create(NAMESPACES, None, {"metadata": {"name": name}})
            async with asyncio.timeout(30):
                while not await client.knows(RUNS, None):
                    await asyncio.sleep(0.1)
            yield kubeconfig, client
        finally:
            await client.close()


async def _until_it_serves(client: KubeClient) -> None:
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(KubeUnavailableError):
                if await client.get(NAMESPACES, None, "default") is not None:
                    return
            await asyncio.sleep(0.2)
