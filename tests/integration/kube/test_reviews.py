"""Questions to the API server about tokens and permissions: anything but a clear yes is a no."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.kube_server import KubeServer, Scripted, kube_server


@pytest.fixture
async def kube() -> AsyncIterator[KubeServer]:
    async with kube_server() as server:
        yield server


def reviewed(**found: Any) -> Scripted:
    return Scripted(201, {"status": found})


async def test_a_token_is_vouched_for_with_its_pod(kube: KubeServer) -> None:
    extra = {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u1"]}
    user = {"username": "system:serviceaccount:shop:default", "uid": "u", "groups": ["g"], "extra": extra}
    kube.will(Scripted(500, "x"), reviewed(authenticated=True, audiences=["windlass", "other"], user=user))
    identity = await kube.client.token_review("t", ["windlass"])
    assert identity is not None
    assert (identity.pod_name, identity.pod_uid) == ("p", "u1")
    assert identity.service_account_namespace == "shop"
    assert identity.audiences == ("windlass",)
    assert len(kube.seen) == 2, "a review stores nothing, so it is retried"


@pytest.mark.parametrize(
    "found",
    [
        {"authenticated": False},
        {"authenticated": True, "user": {"username": "u"}},
        {"authenticated": True, "audiences": ["https://kubernetes.default.svc"], "user": {"username": "u"}},
        {"authenticated": "true", "audiences": ["windlass"]},
        {},
    ],
    ids=["refused", "authenticator without audiences", "other audience", "no boolean", "empty"],
)
async def test_a_token_without_a_clear_yes_for_our_audience_is_nobodys(kube: KubeServer, found: dict[str, Any]) -> None:
    kube.will(reviewed(**found))
    assert await kube.client.token_review("t", ["windlass"]) is None


async def test_an_access_review_asks_everything_that_rbac_needs(kube: KubeServer) -> None:
    kube.will(reviewed(allowed=True))
    assert await kube.client.access_review(
        user="u",
        groups=["g"],
        uid="1",
        extra={"k": ("v",)},
        verb="get",
        resource="runs",
        subresource="log",
        namespace="shop",
        name="r",
    )
    assert kube.seen[0].path == "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert kube.seen[0].body["spec"] == {
        "user": "u",
        "groups": ["g"],
        "uid": "1",
        "extra": {"k": ["v"]},
        "resourceAttributes": {
            "verb": "get",
            "group": "windlass.dev",
            "resource": "runs",
            "subresource": "log",
            "name": "r",
            "namespace": "shop",
        },
    }


@pytest.mark.parametrize("found", [{"allowed": False}, {"allowed": True, "denied": True}, {"allowed": "yes"}, {}])
async def test_anything_but_a_clear_yes_is_a_no(kube: KubeServer, found: dict[str, Any]) -> None:
    kube.will(reviewed(**found))
    assert not await kube.client.access_review(user="u", groups=[], verb="get", resource="runs", namespace="shop")


async def test_an_installation_without_cluster_rights_asks_inside_the_namespace() -> None:
    async with kube_server(local_reviews=True) as kube:
        kube.will(reviewed(allowed=True))
        question: Any = {"user": "u", "groups": [], "verb": "list", "resource": "runs"}
        assert await kube.client.access_review(**question, namespace="shop")
        where = "/apis/authorization.k8s.io/v1/namespaces/shop/localsubjectaccessreviews"
        assert kube.seen[0].path == where
        assert kube.seen[0].body["metadata"] == {"namespace": "shop"}
        assert not await kube.client.access_review(**question, namespace=None)
        assert len(kube.seen) == 1
