"""One suite for all clusters. Kubernetes itself takes part in ``e2e/scenarios/test_kube_adapter.py``."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.aio.client.configuration import Configuration

from tests.support.cluster_contract import ClusterContract, Subject
from tests.support.kube_memory import kube_memory
from tests.support.world import SHOP, FakeCluster
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.cluster import KubeCluster
from windlass_operator.kube.kinds import NAMESPACES, RUNS, TASKS
from windlass_operator.kube.manifests import RunnerSettings
from windlass_operator.kube.reading import read_task
from windlass_operator.kube.transport import Transport
from windlass_operator.local.cluster import LocalCluster
from windlass_operator.local.pods import LocalPods
from windlass_operator.local.resources import LocalResources
from windlass_operator.resources import names

MISSING = {"taskRef": {"name": "missing"}}


class TestKubeClusterOnAnApiServerInMemory(ClusterContract):
    """The adapter that is shipped; the server is a fake, and passes where the real one does."""

    @pytest.fixture
    async def subject(self) -> AsyncIterator[Subject]:
        async with kube_memory() as kube:
            client = KubeClient(Transport(Configuration(host=kube.url)))
            kube.put(NAMESPACES, "", {"metadata": {"name": "shop"}})

            async def task(name: str, spec: dict[str, Any]) -> str:
                return str(kube.put(TASKS, "shop", {"metadata": {"name": name}, "spec": spec})["metadata"]["uid"])

            async def run(name: str) -> str:
                return str(kube.put(RUNS, "shop", {"metadata": {"name": name}, "spec": MISSING})["metadata"]["uid"])

            settings = RunnerSettings("http://api")
            yield Subject(KubeCluster(client, settings, default_image="runner:1"), "shop", task, run)
            await client.close()


class TestLocalCluster(ClusterContract):
    """Local mode: resources in memory, processes for pods."""

    @pytest.fixture
    async def subject(self, tmp_path: Path) -> AsyncIterator[Subject]:
        resources = LocalResources()
        # Nobody answers there: the runner waits for its API until it is deleted.
        pods = LocalPods(tmp_path, {"PYTHONPATH": ":".join(sys.path)}, grace=0.1)
        cluster = LocalCluster(resources, pods)
        cluster.api_url = "http://127.0.0.1:9"

        async def apply(kind: str, name: str, spec: dict[str, Any]) -> str:
            meta = {"name": name, "namespace": "default"}
            body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": meta, "spec": spec}
            return str(resources.apply(body).body["metadata"]["uid"])

        async def task(name: str, spec: dict[str, Any]) -> str:
            return await apply(names.TASK_KIND, name, spec)

        async def run(name: str) -> str:
            return await apply(names.RUN_KIND, name, MISSING)

        yield Subject(cluster, "default", task, run, every_namespace_exists=True)
        await pods.close()


class TestFakeCluster(ClusterContract):
    """What ledger tests put in the place of Kubernetes."""

    @pytest.fixture
    def subject(self) -> Subject:
        cluster = FakeCluster()

        async def task(name: str, spec: dict[str, Any]) -> str:
            found = read_task({"metadata": {"name": name}, "spec": spec}, "runner:1")
            cluster.tasks[SHOP.namespace, name] = found
            return f"uid-of-{name}"

        async def run(name: str) -> str:
            uid = str(uuid4())
            meta = {"name": name, "namespace": SHOP.namespace, "uid": uid, "generation": 1}
            cluster.runs[uid] = {"metadata": meta, "spec": MISSING, "status": {}}
            return uid

        return Subject(cluster, SHOP.namespace, task, run)
