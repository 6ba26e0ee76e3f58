"""How answers of the API server become results and errors. Against a scripted server: a healthy one gives few of them.

What a healthy one does is tested on a real cluster, in ``e2e/scenarios/test_kube_adapter.py``.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientTimeout
from kubernetes.aio.client.configuration import Configuration

from tests.support.kube_server import KubeServer, Scripted, kube_server, status
from windlass_operator.kube import transport
from windlass_operator.kube.client import READ_TRIES, KubeClient, secret_text
from windlass_operator.kube.election import LeadershipLostError
from windlass_operator.kube.errors import (
    AlreadyExistsError,
    ForbiddenByPolicyError,
    KubeConfigError,
    KubeConflictError,
    KubeInvalidError,
    KubeNotFoundError,
    KubeUnavailableError,
)
from windlass_operator.kube.kinds import LEASES, NAMESPACES, PODS, RUNS
from windlass_operator.kube.transport import Transport, find_configuration

POD = {"metadata": {"name": "p", "namespace": "shop", "uid": "u1"}}


@pytest.fixture
async def kube() -> AsyncIterator[KubeServer]:
    async with kube_server() as server:
        yield server


async def names(kube: KubeServer, **options: Any) -> list[str]:
    return [item["metadata"]["name"] async for item in kube.client.list(RUNS, "shop", **options)]


def page(*items: str, more: str = "") -> Scripted:
    return Scripted(200, {"metadata": {"continue": more}, "items": [{"metadata": {"name": name}} for name in items]})


class TestGet:
    async def test_an_object_comes_back_as_it_is(self, kube: KubeServer) -> None:
        kube.will(Scripted(200, POD))
        assert await kube.client.get(PODS, "shop", "p") == POD
        assert kube.seen[0].path == "/api/v1/namespaces/shop/pods/p"

    async def test_an_absent_object_is_none(self, kube: KubeServer) -> None:
        kube.will(status(404, "NotFound", 'pods "p" not found', name="p", kind="pods"))
        assert await kube.client.get(PODS, "shop", "p") is None
        assert len(kube.seen) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            Scripted(404, "404 page not found\n"),
            Scripted(404, "<html>no such backend</html>"),
            status(404, "NotFound", "the server could not find the requested resource"),
        ],
        ids=["kind not installed", "proxy", "no name"],
    )
    async def test_a_404_that_is_not_about_the_object_never_means_absent(
        self, kube: KubeServer, answer: Scripted
    ) -> None:
        kube.will(answer)
        with pytest.raises(KubeNotFoundError) as raised:
            await kube.client.get(RUNS, "shop", "r")
        assert "CRDs" in str(raised.value.hint)

    @pytest.mark.parametrize("name", ["..", "", "a/b", "A", "x" * 254, "a..b", "x?y"])
    async def test_a_name_that_no_object_can_have_is_refused_before_anything_is_sent(
        self, kube: KubeServer, name: str
    ) -> None:
        for namespace, pod in ((name, "p"), ("shop", name)):
            with pytest.raises(KubeInvalidError, match="lower-case"):
                await kube.client.get(PODS, namespace, pod)
        assert not kube.seen

    async def test_a_namespaced_object_needs_its_namespace_and_others_take_none(self, kube: KubeServer) -> None:
        with pytest.raises(KubeInvalidError, match="namespace"):
            await kube.client.get(PODS, None, "p")
        with pytest.raises(KubeInvalidError, match="no namespace"):
            await kube.client.get(NAMESPACES, "shop", "shop")


class TestRetries:
    async def test_a_read_is_tried_again_after_the_time_that_the_server_asks_for(self, kube: KubeServer) -> None:
        busy = Scripted(429, {"kind": "Status"}, {"Retry-After": "1"})
        kube.will(busy, Scripted(503, "upstream"), Scripted(200, POD))
        assert await kube.client.get(PODS, "shop", "p") == POD
        assert len(kube.paused) == 2
        assert all(0 < seconds <= 1 for seconds in kube.paused)

    async def test_a_read_that_goes_on_failing_is_unavailable_with_the_servers_retry_after(
        self, kube: KubeServer
    ) -> None:
        kube.will(Scripted(429, {"kind": "Status", "message": "too many requests"}, {"Retry-After": "7"}))
        with pytest.raises(KubeUnavailableError, match="too many requests") as raised:
            await kube.client.get(PODS, "shop", "p")
        assert raised.value.retryable
        assert raised.value.retry_after == 7
        assert len(kube.seen) == READ_TRIES

    async def test_seconds_to_wait_are_taken_from_the_status_where_there_is_no_header(self, kube: KubeServer) -> None:
        kube.will(status(504, "Timeout", "timed out", retryAfterSeconds=3))
        with pytest.raises(KubeUnavailableError) as raised:
            await kube.client.get(PODS, "shop", "p")
        assert raised.value.retry_after == 3

    async def test_nonsense_in_retry_after_is_as_if_it_were_not_there(self, kube: KubeServer) -> None:
        kube.will(Scripted(503, "x", {"Retry-After": "soon"}))
        with pytest.raises(KubeUnavailableError) as raised:
            await kube.client.get(PODS, "shop", "p")
        assert raised.value.retry_after == 1

    @pytest.mark.parametrize("answer", [Scripted(500, "boom"), Scripted(429, "slow"), Scripted(None)])
    async def test_a_write_is_sent_once(self, kube: KubeServer, answer: Scripted) -> None:
        kube.will(answer)
        for call in (
            kube.client.create(PODS, "shop", POD),
            kube.client.patch(PODS, "shop", "p", {}),
            kube.client.patch_status(RUNS, "shop", "r", {}, uid="u1"),
        ):
            kube.seen.clear()
            with pytest.raises(KubeUnavailableError):
                await call
            assert len(kube.seen) == 1

    async def test_a_connection_that_is_cut_is_tried_again_for_a_read(self, kube: KubeServer) -> None:
        kube.will(Scripted(None), Scripted(None), Scripted(200, POD))
        assert await kube.client.get(PODS, "shop", "p") == POD

    async def test_a_refused_connection_is_unavailable_and_says_what_to_check(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            client = KubeClient(Transport(Configuration(host=url)), pause=lambda _: asyncio.sleep(0))
            with pytest.raises(KubeUnavailableError, match="API server is up and reachable"):
                await client.get(PODS, "shop", "p")
            await client.close()

    async def test_a_server_that_does_not_answer_is_given_up_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "_TIMEOUT", ClientTimeout(total=0.05))
        async with silent_server() as client:
            with pytest.raises(KubeUnavailableError, match="no answer within"):
                await client.create(PODS, "shop", POD)

    async def test_calls_go_through_the_proxy_that_the_environment_names(
        self, kube: KubeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube.will(Scripted(200, POD))
        monkeypatch.setenv("HTTP_PROXY", kube.url)
        client = KubeClient(
            Transport(Configuration(host="http://kubernetes.invalid")), pause=lambda _: asyncio.sleep(0)
        )
        assert await client.get(PODS, "shop", "p") == POD
        await client.close()

    async def test_an_answer_that_is_not_json_is_unavailable(self, kube: KubeServer) -> None:
        kube.will(Scripted(200, "<html>login</html>"))
        with pytest.raises(KubeUnavailableError, match="cannot be read"):
            await kube.client.get(PODS, "shop", "p")

    async def test_an_object_nested_deeper_than_we_can_read_does_not_hide_what_stands_beside_it(
        self, kube: KubeServer
    ) -> None:
        deep = "[" * 200_000 + "]" * 200_000
        good = '{"metadata": {"name": "good"}}'
        kube.will(Scripted(200, f'{{"items": [{{"spec": {deep}}}, {good}], "metadata": {{}}}}'))
        found = [body async for body in kube.client.list(RUNS, "shop")]
        assert found[1]["metadata"]["name"] == "good"


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[KubeClient]:
    over = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    client = KubeClient(Transport(Configuration(host=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")))
    yield client
    over.set()
    await client.close()
    server.close()


class TestErrors:
    @pytest.mark.parametrize(
        ("message", "causes", "policy", "retryable"),
        [
            ('pods "p" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2', [], "quota", True),
            ('pods "p" is forbidden: violates PodSecurity "restricted:latest": x', [], "pod-security", False),
            ('pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods"', [], "rbac", False),
            ("is being terminated", [{"reason": "NamespaceTerminating"}], "namespace-terminating", False),
            ('admission webhook "w" denied the request: no', [], "admission", False),
        ],
    )
    async def test_a_403_tells_who_refuses_and_keeps_the_servers_words(
        self, kube: KubeServer, message: str, causes: list[Any], policy: str, retryable: bool
    ) -> None:
        kube.will(status(403, "Forbidden", message, causes=causes))
        with pytest.raises(ForbiddenByPolicyError) as raised:
            await kube.client.create(PODS, "shop", POD)
        assert raised.value.policy == policy
        assert message in raised.value.message
        assert raised.value.retryable is retryable
        assert raised.value.hint

    async def test_a_taken_name_is_told_apart_from_a_conflict(self, kube: KubeServer) -> None:
        kube.will(status(409, "AlreadyExists", "exists"), status(409, "Conflict", "resourcequotas was modified"))
        with pytest.raises(AlreadyExistsError):
            await kube.client.create(PODS, "shop", POD)
        with pytest.raises(KubeConflictError) as raised:
            await kube.client.create(PODS, "shop", POD)
        assert raised.value.retryable

    async def test_an_invalid_object_names_the_field(self, kube: KubeServer) -> None:
        kube.will(status(422, "Invalid", "is invalid", causes=[{"field": "spec.containers[0].image"}]))
        with pytest.raises(KubeInvalidError) as raised:
            await kube.client.create(PODS, "shop", POD)
        assert raised.value.field == "spec.containers[0].image"
        assert not raised.value.retryable

    async def test_a_create_in_an_absent_namespace_says_so(self, kube: KubeServer) -> None:
        kube.will(status(404, "NotFound", 'namespaces "shop" not found', name="shop"))
        with pytest.raises(KubeNotFoundError, match="shop"):
            await kube.client.create(PODS, "shop", POD)

    async def test_a_refused_credential_may_heal(self, kube: KubeServer) -> None:
        kube.will(status(401, "Unauthorized", "Unauthorized"))
        with pytest.raises(KubeUnavailableError, match="credential"):
            await kube.client.create(PODS, "shop", POD)

    async def test_a_page_of_html_is_cut(self, kube: KubeServer) -> None:
        kube.will(Scripted(502, "x" * 100_000))
        with pytest.raises(KubeUnavailableError) as raised:
            await kube.client.create(PODS, "shop", POD)
        assert len(str(raised.value)) < 2_000

    @pytest.mark.parametrize("details", ["text", None, {"causes": "text"}, {"causes": [1, None]}])
    async def test_junk_in_the_status_object_is_no_obstacle(self, kube: KubeServer, details: Any) -> None:
        kube.will(Scripted(403, {"reason": 7, "message": None, "details": details}))
        with pytest.raises(ForbiddenByPolicyError):
            await kube.client.create(PODS, "shop", POD)


class TestList:
    async def test_chunks_are_joined(self, kube: KubeServer) -> None:
        kube.will(page("a", "b", more="t1"), page("c", more="t2"), page("d"))
        assert await names(kube, label_selector="x=y", limit=2) == ["a", "b", "c", "d"]
        assert [seen.query for seen in kube.seen] == [
            {"limit": "2", "labelSelector": "x=y"},
            {"limit": "2", "labelSelector": "x=y", "continue": "t1"},
            {"limit": "2", "labelSelector": "x=y", "continue": "t2"},
        ]

    async def test_a_list_that_outlives_its_snapshot_goes_on_from_the_next_name(self, kube: KubeServer) -> None:
        expired = {"kind": "Status", "code": 410, "reason": "Expired", "metadata": {"continue": "fresh"}}
        kube.will(page("a", more="t1"), Scripted(410, expired), page("b"))
        assert await names(kube) == ["a", "b"]
        assert kube.seen[2].query["continue"] == "fresh"

    async def test_a_list_without_a_token_to_go_on_starts_again(self, kube: KubeServer) -> None:
        kube.will(page("a", more="t1"), status(410, "Expired"), page("a", "b"))
        assert await names(kube) == ["a", "a", "b"]
        assert "continue" not in kube.seen[2].query

    async def test_410_on_a_fresh_list_does_not_turn_in_circles(self, kube: KubeServer) -> None:
        kube.will(status(410, "Expired"))
        with pytest.raises(KubeUnavailableError):
            await names(kube)
        assert len(kube.seen) == 1

    async def test_a_chunk_is_retried_alone(self, kube: KubeServer) -> None:
        kube.will(page("a", more="t1"), Scripted(500, "x"), page("b"))
        assert await names(kube) == ["a", "b"]

    async def test_the_whole_cluster_has_a_path_without_namespace(self, kube: KubeServer) -> None:
        kube.will(page("a"))
        assert [item async for item in kube.client.list(RUNS, None)]
        assert kube.seen[0].path == "/apis/windlass.dev/v1alpha1/runs"


class TestWrites:
    async def test_a_create_names_its_kind(self, kube: KubeServer) -> None:
        kube.will(Scripted(201, POD))
        await kube.client.create(LEASES, "shop", {"metadata": {"name": "l"}})
        assert kube.seen[0].body["apiVersion"] == "coordination.k8s.io/v1"
        assert kube.seen[0].body["kind"] == "Lease"

    async def test_a_status_is_written_for_one_uid_without_empty_fields_and_with_the_nulls_of_a_result(
        self, kube: KubeServer
    ) -> None:
        kube.will(Scripted(200, POD))
        written = {"state": "Running", "reason": None, "result": {"found": None}, "conditions": [None]}
        assert await kube.client.patch_status(RUNS, "shop", "r", written, uid="u1")
        assert kube.seen[0].path == "/apis/windlass.dev/v1alpha1/namespaces/shop/runs/r/status"
        assert kube.seen[0].content_type == "application/json-patch+json"
        assert kube.seen[0].body == [
            {"op": "test", "path": "/metadata/uid", "value": "u1"},
            {
                "op": "add",
                "path": "/status",
                "value": {"state": "Running", "result": {"found": None}, "conditions": [None]},
            },
        ]

    async def test_a_status_of_an_object_that_is_gone_is_not_written(self, kube: KubeServer) -> None:
        kube.will(status(404, "NotFound", "not found", name="r"))
        assert not await kube.client.patch_status(RUNS, "shop", "r", {}, uid="u1")

    async def test_a_status_of_a_successor_is_not_written(self, kube: KubeServer) -> None:
        kube.will(status(422, "Invalid", "the server rejected our request"), Scripted(200, {"metadata": {"uid": "u2"}}))
        assert not await kube.client.patch_status(RUNS, "shop", "r", {}, uid="u1")

    async def test_a_status_that_the_schema_refuses_is_an_error_and_not_taken_for_a_successor(
        self, kube: KubeServer
    ) -> None:
        kube.will(status(422, "Invalid", "status.state: bad"), Scripted(200, {"metadata": {"uid": "u1"}}))
        with pytest.raises(KubeInvalidError, match=r"status\.state"):
            await kube.client.patch_status(RUNS, "shop", "r", {}, uid="u1")

    async def test_a_patch_of_an_absent_object_is_none(self, kube: KubeServer) -> None:
        kube.will(status(404, "NotFound", "not found", name="p"))
        assert await kube.client.patch(PODS, "shop", "p", {}) is None

    async def test_a_delete_takes_its_uid_and_grace_along(self, kube: KubeServer) -> None:
        kube.will(Scripted(200, {}))
        assert await kube.client.delete(PODS, "shop", "p", uid="u1", grace_seconds=0)
        assert kube.seen[0].body["preconditions"] == {"uid": "u1"}
        assert kube.seen[0].body["gracePeriodSeconds"] == 0

    async def test_a_delete_of_what_is_gone_or_another_is_false(self, kube: KubeServer) -> None:
        kube.will(status(404, "NotFound", "not found", name="p"), status(409, "Conflict", "UID in precondition"))
        assert not await kube.client.delete(PODS, "shop", "p", uid="u1")
        assert not await kube.client.delete(PODS, "shop", "p", uid="u1")

    async def test_a_log_that_does_not_exist_yet_or_any_more_is_empty(self, kube: KubeServer) -> None:
        kube.will(Scripted(200, "one\ntwo\n"), status(400, "BadRequest", "waiting to start"), status(404, "NotFound"))
        assert [await kube.client.pod_log("shop", "p", container="runner", tail=2) for _ in range(3)] == [
            "one\ntwo\n",
            "",
            "",
        ]
        assert kube.seen[0].query["tailLines"] == "2"


class TestConfiguration:
    async def test_a_missing_kubeconfig_says_what_to_set(self) -> None:
        with pytest.raises(KubeConfigError, match="KUBECONFIG"):
            await find_configuration({"KUBECONFIG": "/nowhere"})

    async def test_a_pod_without_a_service_account_token_says_so(self) -> None:
        with pytest.raises(KubeConfigError, match="service account"):
            await find_configuration({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"})


@pytest.mark.parametrize("data", [None, {}, {"k": None}, {"k": "***"}, {"k": "/w=="}, "text"])
def test_a_secret_without_readable_text_has_none(data: Any) -> None:
    assert secret_text({"data": data}, "k") is None


def test_a_value_of_a_secret_is_decoded() -> None:
    assert secret_text({"data": {"k": "dmFsdWU="}}, "k") == "value"


async def test_a_guarded_client_reads_at_any_time_and_writes_only_while_the_guard_lets_it(kube: KubeServer) -> None:
    allowed = True

    def guard() -> None:
        if not allowed:
            raise LeadershipLostError("another may lead")

    client = kube.client.guarded(guard)
    kube.will(Scripted(200, {"metadata": {"uid": "u"}}))
    assert await client.patch_status(RUNS, "n", "r", {"state": "Running"}, uid="u")
    allowed = False
    for write in (
        client.patch_status(RUNS, "n", "r", {"state": "Running"}, uid="u"),
        client.patch(RUNS, "n", "r", {}),
        client.create(RUNS, "n", {"metadata": {"name": "r"}}),
        client.delete(RUNS, "n", "r", uid="u"),
    ):
        with pytest.raises(LeadershipLostError):
            await write
    assert await client.get(RUNS, "n", "r")
    assert [seen.method for seen in kube.seen] == ["PATCH", "GET"]
