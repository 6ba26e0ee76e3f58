"""Kubernetes as the services see it, where the API server's answer must not be taken for more than it says."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.kube_server import KubeServer, Scripted, kube_server, status
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan
from windlass_operator.domain.project import Project
from windlass_operator.kube.cluster import KubeCluster
from windlass_operator.kube.manifests import RunnerSettings

SHOP = Project(uid="u1", namespace="shop")
ABSENT = status(404, "NotFound", 'namespaces "shop" not found', name="shop", kind="namespaces")


@pytest.fixture
async def kube() -> AsyncIterator[KubeServer]:
    async with kube_server() as server:
        yield server


def cluster(kube: KubeServer, *namespaces: str) -> KubeCluster:
    return KubeCluster(kube.client, RunnerSettings("http://api"), default_image="runner:1", namespaces=namespaces)


def namespace(uid: str = "u1", **metadata: Any) -> Scripted:
    return Scripted(200, {"metadata": {"name": "shop", "uid": uid, **metadata}})


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        (namespace(), False),
        (namespace("another"), True),
        (namespace(deletionTimestamp="2030-01-01T00:00:00Z"), True),
        (ABSENT, True),
        (status(403, "Forbidden", 'User "windlass" cannot get namespaces'), False),
    ],
    ids=["there", "successor", "terminating", "absent", "forbidden"],
)
async def test_a_namespace_is_gone_only_where_the_api_server_says_so(
    kube: KubeServer, answer: Scripted, gone: bool
) -> None:
    kube.will(answer)
    assert await cluster(kube).is_gone(SHOP) is gone


async def test_a_namespace_that_is_not_listed_any_more_is_not_judged(kube: KubeServer) -> None:
    kube.will(ABSENT)
    assert not await cluster(kube, "other").is_gone(SHOP)
    assert await cluster(kube, "shop").is_gone(SHOP)


async def test_a_look_at_a_namespace_is_remembered_and_its_end_is_not(kube: KubeServer) -> None:
    found = cluster(kube)
    kube.will(namespace())
    assert await found.project("shop") == SHOP
    assert not await found.is_gone(SHOP)
    assert len(kube.seen) == 1
    kube.will(ABSENT, namespace("u2"))
    assert await found.is_gone(Project("u0", "shop"))
    assert await found.project("shop") == Project("u2", "shop")


@pytest.mark.parametrize("task", ["t" * 62 + "." + "t" * 190, "t" * 60 + "-.-" + "t", "order"])
async def test_the_name_of_a_task_of_any_length_becomes_a_label_that_kubernetes_takes(
    kube: KubeServer, task: str
) -> None:
    kube.will(Scripted(201, {"metadata": {"uid": "p1"}}))
    parts = PodParts(image="runner:1", preload=None, source_hash=None)
    await cluster(kube).create_pod(PodPlan("t-1", "shop", "0" * 16, task), parts)
    label = kube.seen[0].body["metadata"]["labels"]["windlass.dev/task"]
    assert task.startswith(label)
    assert len(label) <= 63
    assert label[-1].isalnum()
