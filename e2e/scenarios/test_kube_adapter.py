"""The Kubernetes adapter against a real API server: what a stand-in would only repeat from our own belief."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import pytest

from tests.support.cluster_contract import ClusterContract, Subject
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.kube.client import KubeClient, Object
from windlass_operator.kube.cluster import KubeCluster
from windlass_operator.kube.election import LeadershipLostError, lead
from windlass_operator.kube.errors import (
    AlreadyExistsError,
    ForbiddenByPolicyError,
    KubeConflictError,
    KubeInvalidError,
    KubeNotFoundError,
)
from windlass_operator.kube.kinds import LEASES, NAMESPACES, PODS, RUNS, SECRETS, TASKS, Kind
from windlass_operator.kube.manifests import PodPlan, RunnerSettings, runner_pod
from windlass_operator.kube.pod_status import Stage, read_pod
from windlass_operator.kube.transport import Transport, find_configuration

KUBECONFIG: Final = os.environ.get("KUBECONFIG") or str(Path(__file__).parents[2] / ".cluster/kubeconfig")
DEADLINE: Final = 30.0

SERVICE_ACCOUNTS: Final = Kind("", "v1", "serviceaccounts", "ServiceAccount")
QUOTAS: Final = Kind("", "v1", "resourcequotas", "ResourceQuota")
CRDS: Final = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
PARTS: Final = PodParts(image="windlass.invalid/none:1", preload=None, source_hash=None)
SETTINGS: Final = RunnerSettings("http://windlass-api.windlass-system.svc.cluster.local:8080")


T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], until: Callable[[T], bool]) -> T:
    end = time.monotonic() + DEADLINE
    while True:
        found = await look()
        if until(found):
            return found
        assert time.monotonic() < end, f"still {found!r}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    found = Transport(await find_configuration({"KUBECONFIG": KUBECONFIG}))
    yield found
    await found.close()


@pytest.fixture
def client(transport: Transport) -> KubeClient:
    return KubeClient(transport)


@pytest.fixture
async def namespace(client: KubeClient) -> AsyncIterator[str]:
    name = f"adapter-{uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await client.create(NAMESPACES, None, {"metadata": {"name": name, "labels": labels}})
    # Pods need it, and its controller takes a moment.
    await eventually(lambda: client.get(SERVICE_ACCOUNTS, name, "default"), lambda found: found is not None)
    yield name
    await client.delete(NAMESPACES, None, name, uid=None)


@pytest.fixture
async def widgets(client: KubeClient) -> AsyncIterator[Kind]:
    """A kind of our own with a status subresource, so that these tests need no installation."""
    group = f"g{uuid4().hex[:8]}.test.windlass.dev"
    schema = {
        "type": "object",
        "properties": {
            "status": {
                "type": "object",
                "properties": {"state": {"type": "string"}, "reason": {"type": "string"}, "n": {"type": "integer"}},
            }
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {
        "group": group,
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{**version, "subresources": {"status": {}}}],
    }
    name = f"widgets.{group}"
    await client.create(CRDS, None, {"metadata": {"name": name}, "spec": spec})
    kind = Kind(group, "v1", "widgets", "Widget")

    async def served() -> bool:
        try:
            return [item async for item in client.list(kind, "default")] == []
        except KubeNotFoundError:
            return False

    await eventually(served, bool)
    yield kind
    await client.delete(CRDS, None, name, uid=None)


async def make(client: KubeClient, kind: Kind, namespace: str, name: str) -> str:
    made = await client.create(kind, namespace, {"metadata": {"name": name}})
    return str(made["metadata"]["uid"])


async def status_of(client: KubeClient, kind: Kind, namespace: str, name: str) -> Object | None:
    found = await client.get(kind, namespace, name)
    assert found is not None
    status: Object | None = found.get("status")
    return status


async def test_a_status_is_written_whole_and_what_it_had_before_goes(
    client: KubeClient, namespace: str, widgets: Kind
) -> None:
    uid = await make(client, widgets, namespace, "w")
    assert await client.patch_status(widgets, namespace, "w", {"state": "Queued", "reason": "Paused"}, uid=uid)
    assert await client.patch_status(widgets, namespace, "w", {"state": "Running", "reason": None}, uid=uid)
    assert await status_of(client, widgets, namespace, "w") == {"state": "Running"}


async def test_a_successor_with_the_same_name_is_never_written(
    client: KubeClient, namespace: str, widgets: Kind
) -> None:
    old = await make(client, widgets, namespace, "w")
    await client.delete(widgets, namespace, "w", uid=old)
    assert not await client.patch_status(widgets, namespace, "w", {"state": "Running"}, uid=old)
    await make(client, widgets, namespace, "w")
    assert not await client.patch_status(widgets, namespace, "w", {"state": "Running"}, uid=old)
    assert await status_of(client, widgets, namespace, "w") is None


async def test_a_status_against_the_schema_is_an_error(client: KubeClient, namespace: str, widgets: Kind) -> None:
    uid = await make(client, widgets, namespace, "w")
    with pytest.raises(KubeInvalidError) as raised:
        await client.patch_status(widgets, namespace, "w", {"n": "seven"}, uid=uid)
    assert raised.value.field == "status.n"


async def test_absent_is_none_and_an_unknown_kind_is_an_error(client: KubeClient, namespace: str) -> None:
    assert await client.get(PODS, namespace, "none") is None
    assert await client.get(PODS, "no-such-namespace", "none") is None
    unknown = Kind("none.test.windlass.dev", "v1", "widgets", "Widget")
    with pytest.raises(KubeNotFoundError):
        await client.get(unknown, namespace, "none")
    with pytest.raises(KubeNotFoundError):
        await client.create(SECRETS, "no-such-namespace", {"metadata": {"name": "s"}})


async def test_a_second_create_finds_the_name_taken(client: KubeClient, namespace: str) -> None:
    await make(client, SECRETS, namespace, "s")
    with pytest.raises(AlreadyExistsError):
        await make(client, SECRETS, namespace, "s")


async def test_a_list_in_chunks_is_whole(client: KubeClient, namespace: str) -> None:
    names = [f"s{i}" for i in range(7)]
    for name in names:
        await make(client, SECRETS, namespace, name)
    found = [item["metadata"]["name"] async for item in client.list(SECRETS, namespace, limit=2)]
    assert found == names


async def test_a_patch_of_an_older_version_is_a_conflict(client: KubeClient, namespace: str) -> None:
    made = await client.create(SECRETS, namespace, {"metadata": {"name": "s"}})
    version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"a": "1"}}}
    assert await client.patch(SECRETS, namespace, "s", version)
    version["metadata"]["labels"] = {"a": "2"}
    with pytest.raises(KubeConflictError):
        await client.patch(SECRETS, namespace, "s", version)
    assert await client.patch(SECRETS, namespace, "none", {}) is None


async def test_a_delete_spares_a_successor(client: KubeClient, namespace: str) -> None:
    old = await make(client, SECRETS, namespace, "s")
    assert await client.delete(SECRETS, namespace, "s", uid=old)
    assert not await client.delete(SECRETS, namespace, "s", uid=old)
    new = await make(client, SECRETS, namespace, "s")
    assert not await client.delete(SECRETS, namespace, "s", uid=old)
    found = await client.get(SECRETS, namespace, "s")
    assert found is not None
    assert found["metadata"]["uid"] == new


def a_pod(namespace: str, **changes: Any) -> Object:
    return runner_pod(PodPlan("order-1", namespace, "0123456789abcdef"), replace(PARTS, **changes), SETTINGS)


@pytest.mark.parametrize("identity", ["secret", "token"])
async def test_a_runner_pod_passes_the_restricted_level_and_nothing_is_added_that_we_refused(
    client: KubeClient, namespace: str, identity: Any
) -> None:
    settings = RunnerSettings(SETTINGS.api_url, identity=identity)
    body = runner_pod(PodPlan("order-1", namespace, "0123456789abcdef"), PARTS, settings)
    made = await client.create(PODS, namespace, body)
    volumes = [volume["name"] for volume in made["spec"].get("volumes", [])]
    assert volumes == (["windlass-identity"] if identity == "token" else [])
    assert read_pod(made).stage is Stage.PENDING
    assert await client.pod_log(namespace, "order-1", container="runner", tail=10) == ""
    assert await client.delete(PODS, namespace, "order-1", uid=made["metadata"]["uid"], grace_seconds=0)


async def test_an_image_that_is_not_there_and_a_secret_that_is_not_there_are_seen(
    client: KubeClient, namespace: str
) -> None:
    await client.create(PODS, namespace, a_pod(namespace))

    async def problem() -> str | None:
        seen = read_pod(await client.get(PODS, namespace, "order-1"))
        return seen.problem.reason if seen.problem else None

    # Which of the two comes first is the kubelet's choice.
    assert await eventually(problem, bool) in ("ImagePullFailed", "SecretNotFound")


async def test_a_pod_that_fits_nowhere_is_seen_in_the_schedulers_words(client: KubeClient, namespace: str) -> None:
    await client.create(PODS, namespace, a_pod(namespace, resources={"requests": {"cpu": "10k"}}))

    async def seen() -> Any:
        return read_pod(await client.get(PODS, namespace, "order-1")).problem

    problem = await eventually(seen, bool)
    assert problem.reason == "Unschedulable"
    assert "Insufficient cpu" in problem.message


async def test_the_pod_security_level_refuses_in_its_own_words(client: KubeClient, namespace: str) -> None:
    body = a_pod(namespace)
    body["spec"]["hostNetwork"] = True
    with pytest.raises(ForbiddenByPolicyError, match="hostNetwork") as raised:
        await client.create(PODS, namespace, body)
    assert raised.value.policy == "pod-security"


async def test_a_quota_that_is_used_up_may_pass_later(client: KubeClient, namespace: str) -> None:
    spec = {"hard": {"pods": "0"}}
    await client.create(QUOTAS, namespace, {"metadata": {"name": "none"}, "spec": spec})

    async def refusal() -> ForbiddenByPolicyError | None:
        try:
            made = await client.create(PODS, namespace, a_pod(namespace))
        except ForbiddenByPolicyError as error:
            return error
        await client.delete(PODS, namespace, "order-1", uid=made["metadata"]["uid"], grace_seconds=0)
        return None

    error = await eventually(refusal, bool)
    assert error is not None
    assert error.policy == "quota"
    assert error.retryable
    assert "exceeded quota" in error.message


async def token_for(transport: Transport, namespace: str, audience: str, pod: Object | None = None) -> str:
    bound = {"kind": "Pod", "apiVersion": "v1"}
    reference = {"boundObjectRef": bound | {k: pod["metadata"][k] for k in ("name", "uid")}} if pod else {}
    path = SERVICE_ACCOUNTS.path(namespace, "default", "token")
    body = {"spec": {"audiences": [audience], **reference}}
    answer = await transport.call("POST", path, body=body)
    assert answer.ok, answer.body
    return str(json.loads(answer.body)["status"]["token"])


async def test_a_token_for_us_names_its_service_account_and_its_pod(
    client: KubeClient, transport: Transport, namespace: str
) -> None:
    pod = await client.create(PODS, namespace, a_pod(namespace))
    identity = await client.token_review(await token_for(transport, namespace, "windlass", pod), ["windlass"])
    assert identity is not None
    assert identity.username == f"system:serviceaccount:{namespace}:default"
    assert identity.service_account_namespace == namespace
    assert (identity.pod_name, identity.pod_uid) == ("order-1", pod["metadata"]["uid"])


async def test_a_token_for_somebody_else_and_nonsense_are_nobodys(
    client: KubeClient, transport: Transport, namespace: str
) -> None:
    assert await client.token_review(await token_for(transport, namespace, "other"), ["windlass"]) is None
    assert await client.token_review("nonsense", ["windlass"]) is None


@pytest.mark.parametrize("local", [False, True])
async def test_rbac_answers_for_us(transport: Transport, namespace: str, local: bool) -> None:
    asking = KubeClient(transport, local_reviews=local)
    question: Any = {"verb": "create", "resource": "runs", "namespace": namespace, "user": "somebody"}
    assert await asking.access_review(**question, groups=["system:masters"])
    assert not await asking.access_review(**question, groups=["system:authenticated"])


async def test_a_second_process_leads_once_the_first_has_stopped_cleanly(client: KubeClient, namespace: str) -> None:
    started = {name: asyncio.Event() for name in ("one", "two")}

    def stand(name: str) -> asyncio.Task[None]:
        async def work(_: Callable[[], None]) -> None:
            started[name].set()
            await asyncio.Event().wait()

        return asyncio.create_task(lead(client, namespace=namespace, name="leader", identity=name, on_started=work))

    async with asyncio.timeout(DEADLINE):
        one = stand("one")
        await started["one"].wait()
        two = stand("two")
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        before = time.monotonic()
        await started["two"].wait()
        assert time.monotonic() - before < 4, "a released Lease is taken at the next look, not after 15 s"
        lease = await client.get(LEASES, namespace, "leader")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == "two"
        two.cancel()
        await asyncio.gather(two, return_exceptions=True)


async def test_a_leader_whose_lease_is_taken_stops(client: KubeClient, namespace: str) -> None:
    started = asyncio.Event()

    async def work(_: Callable[[], None]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(DEADLINE):
        task = asyncio.create_task(lead(client, namespace=namespace, name="leader", identity="one", on_started=work))
        await started.wait()
        await client.patch(LEASES, namespace, "leader", {"spec": {"holderIdentity": "usurper"}})
        with pytest.raises(LeadershipLostError, match="usurper"):
            await task


@pytest.mark.usefixtures("release")
class TestContract(ClusterContract):
    """The promises that the fakes of other tests are held to, kept by the real API server."""

    @pytest.fixture
    def subject(self, client: KubeClient, namespace: str) -> Subject:
        """Return the real cluster."""

        async def make(kind: Kind, name: str, spec: dict[str, Any]) -> str:
            made = await client.create(kind, namespace, {"metadata": {"name": name}, "spec": spec})
            return str(made["metadata"]["uid"])

        async def task(name: str, spec: dict[str, Any]) -> str:
            return await make(TASKS, name, spec)

        async def run(name: str) -> str:
            return await make(RUNS, name, {"taskRef": {"name": "missing"}})

        cluster = KubeCluster(client, SETTINGS, default_image="windlass.invalid/none:1")
        return Subject(cluster, namespace, task, run, watched=True)
