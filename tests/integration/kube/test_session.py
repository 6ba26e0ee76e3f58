"""What kopf gets to see of lists and watches: nothing that it cannot read, and no echo of our own statuses."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace

import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from windlass_operator.handlers.session import by_address, session

DEEP = "[" * 9_990 + "]" * 9_990
EVENTS = [
    '{"type": "ADDED", "object": {"metadata": {"name": "before"}}}',
    f'{{"type": "ADDED", "object": {{"spec": {{"payload": {DEEP}, "tags": ["a"]}}, "metadata": {{"name": "deep"}}}}}}',
    '{"type": "ADDED", "object": {"spec": {"payload": "é [{ \\\\\\" ["}, "metadata": {"name": "after"}}}',
    """{"type":"MODIFIED","object":{"apiVersion":"windlass.dev/v1alpha1","kind":"Run","metadata":{"name":"echo",
        "uid":"u","generation":3,"resourceVersion":"77"},"status":{"runId":"known"}}}""".replace("\n", ""),
]


@pytest.fixture
async def api() -> AsyncIterator[kopf.AiohttpSession]:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = [json.dumps(json.loads(EVENTS[0])["object"]), EVENTS[1].partition('"object": ')[2][:-1]]
            return web.Response(text=f'{{"items": [{", ".join(items)}]}}', content_type="application/json")
        stream = web.StreamResponse()
        await stream.prepare(request)
        text = "\n".join(EVENTS).encode() + b"\n"
        for start in range(0, len(text), 777):  # chunks end within lines and within letters
            await stream.write(text[start : start + 777])
        return stream

    app = web.Application()
    app.router.add_get("/runs", answer)
    server = TestServer(app)
    await server.start_server()
    info = kopf.ConnectionInfo(server=str(server.make_url("")).rstrip("/"), token="t")
    found = session(info, lambda uid, generation, run_id: (uid, generation, run_id) == ("u", 3, "known"))
    yield found
    await found.aiohttp_session.close()
    await server.close()


async def test_a_list_is_read_though_one_object_is_too_deep(api: kopf.AiohttpSession) -> None:
    async with api.aiohttp_session.get(f"{api.server}/runs") as answer:
        items = (await answer.json())["items"]
    assert [item["metadata"]["name"] for item in items] == ["before", "deep"]
    assert items[1]["spec"]["tags"] == ["a"]


async def test_a_watch_goes_on_past_an_object_that_is_too_deep(api: kopf.AiohttpSession) -> None:
    from kopf._cogs.clients.api import iter_jsonlines

    async with api.aiohttp_session.get(f"{api.server}/runs?watch=true") as answer:
        objects = [json.loads(line)["object"] async for line in iter_jsonlines(answer.content)]
    assert [found["metadata"].get("name") for found in objects] == ["before", "deep", "after", None]
    assert objects[2]["spec"]["payload"] == 'é [{ \\" ['
    assert objects[3]["metadata"] == {"resourceVersion": "77"}, "what says nothing new left a bookmark"


async def test_a_refusal_that_is_text_is_one_that_kopf_knows(api: kopf.AiohttpSession) -> None:
    """As from the API of a CRD that is being made or removed by somebody: kopf asks for it, and must go on."""
    from kopf._cogs.clients.errors import APINotFoundError, check_response

    async with api.aiohttp_session.get(f"{api.server}/apis/example.com/v1") as answer:
        assert answer.content_type == "text/plain"
        with pytest.raises(APINotFoundError):
            await check_response(answer)


async def test_kopf_logs_in_with_these_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass_operator.handlers import watch

    info = kopf.ConnectionInfo(server="http://nowhere", token="t")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: info)
    observers = SimpleNamespace(shows_nothing_new=lambda *_: False)
    [handler] = watch.registry(observers)._activities.get_all_handlers()  # no events come
    found = await handler.fn()  # type: ignore[misc, call-arg]  # it ignores what kopf would give it
    assert isinstance(found, kopf.AiohttpSession)
    assert found.aiohttp_session.headers["Authorization"] == "Bearer t"
    await found.aiohttp_session.close()


def test_junk_where_kopf_would_look_for_its_own_memory_keeps_no_event_from_us() -> None:
    from windlass_operator.handlers import watch

    annotations = {"kopf.zalando.org/last-handled-configuration": "{junk"}
    body = kopf.Body({"metadata": {"annotations": annotations}, "spec": {"payload": "x"}})
    with pytest.raises(ValueError, match="property name"):
        kopf.AnnotationsDiffBaseStorage().fetch(body=body)
    ours = watch.settings(listed_namespaces=False).persistence.diffbase_storage
    assert ours.fetch(body=body) is None
    assert ours.build(body=body) == {}


@pytest.mark.parametrize(
    ("env", "server"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://10.96.0.1:6443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
        ({}, "https://kubernetes.default.svc"),
    ],
)
def test_watches_go_where_the_pods_environment_says_without_asking_for_a_name(env: dict[str, str], server: str) -> None:
    assert by_address(kopf.ConnectionInfo(server="https://kubernetes.default.svc"), env).server == server
