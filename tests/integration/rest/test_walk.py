"""Every route, walked: nobody without a token, nobody in another namespace, no way round by odd paths."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from tests.support.rest import ALICE, VIEWER, Answer, Rest, application
from tests.support.world import World
from windlass import protocol
from windlass_operator.ledger.database import Database

OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}
"""The only routes that ask nobody who they are: they tell nothing about anybody's work."""

SECRET = {"/callbacks/v1/{token}"}
"""Whose address is the credential: test_callbacks.py."""

PERMISSIONS = {
    "trigger": ("create", "runs"),
    "trigger_batch": ("create", "runs"),
    "list_runs": ("list", "runs"),
    "get_run": ("get", "runs"),
    "get_payload": ("get", "runs"),
    "get_tree": ("get", "runs"),
    "list_steps": ("get", "runs"),
    "list_attempts": ("get", "runs"),
    "get_attempt_pod": ("get", "runs/log"),
    "list_events": ("get", "runs"),
    "list_logs": ("get", "runs/log"),
    "get_result": ("get", "runs"),
    "cancel": ("patch", "runs"),
    "list_approvals": ("list", "approvals"),
    "get_approval": ("get", "approvals"),
    "decide_approval": ("update", "approvals"),
    "resume": ("patch", "runs"),
    "send_event": ("create", "events"),
    "list_queues": ("list", "queues"),
    "list_pools": ("list", "workerpools"),
    "explain_run": ("get", "runs"),
}


def _routes() -> list[tuple[str, str, str]]:
    """Return method, path and name of every route, from the application that is really served."""
    app = application(World(Database("postgresql://nobody@localhost/none")), Any)  # type: ignore[arg-type]  # only built
    return sorted((m, r.path, r.name) for r in _flat(app.routes) for m in (r.methods or ()) if m != "HEAD")


def _flat(routes: Any) -> Iterator[Route | APIRoute]:
    for route in routes:
        inner = getattr(route, "effective_candidates", None)  # how FastAPI keeps a router that was included
        yield from _flat(inner()) if inner else [route]


ROUTES = _routes()
PUBLIC = [route for route in ROUTES if route[1].startswith("/api/")]
RUNTIME = [route for route in ROUTES if route[1].startswith("/runtime/")]


def _filled(path: str, namespace: str = "shop", run: str = "order-1") -> str:
    values = {
        "namespace": namespace,
        "task": "order",
        "run": run,
        "number": "1",
        "approval": "order-1",
        "sha256": "0" * 64,
        "token": "x",
    }
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


def test_every_route_is_public_of_runners_or_open() -> None:
    assert {path for _, path, _ in ROUTES} - {path for _, path, _ in (*PUBLIC, *RUNTIME)} == OPEN | SECRET
    assert {name for _, _, name in PUBLIC} == set(PERMISSIONS)
    told = re.findall(r"^(GET|PUT|POST) +(/runtime/\S+)", protocol.__doc__ or "", re.MULTILINE)
    assert {(method, path.replace("..", "{sha256}")) for method, path in told} == {(m, p) for m, p, _ in RUNTIME}


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_an_open_route_needs_no_token(rest: Rest, path: str) -> None:
    assert (await rest.call("GET", path, token=None)).status == 200


async def test_nobody_gets_anywhere_without_a_token(rest: Rest) -> None:
    for token in (None, "", "nobody's", "x" * 100_000):
        for method, path, _ in PUBLIC:
            answer = await rest.call(method, _filled(path), token=token, data=b"{" if method == "POST" else None)
            assert answer.status == 401, (method, path, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.error[1] == "Unauthorized"
    assert rest.reviews.asked == {"nobody's": 1}, "what is no token is not sent to Kubernetes"


RUNTIME_BODIES = {
    "/claim": b'{"claimId": "c", "podName": "p", "podUid": "u", "waitMs": 0}',
    "/withdraw": b'{"claimId": "c", "podName": "p", "podUid": "u"}',
    "/steps": b'{"steps": [{"key": "a", "name": "a", "argsHash": "", "state": "running"}]}',
    "/suspend": b'{"waits": ["a"]}',
    "/events": b'{"name": "paid", "id": "a"}',
    "/tokens": b'{"key": "a", "timeoutMs": 1000}',
    "/logs": b'{"lines": [{"seq": 1, "stream": "stdout", "text": "x"}]}',
    "/checkpoint": b'{"n": 1, "state": 1}',
    "/extend": b'{"addedMs": 1}',
    "/children": b'{"children": [{"key": "a", "name": "a", "argsHash": "", "task": "order"}]}',
    "/fail": b'{"failure": {"type": "a", "message": "b"}}',
}


@pytest.mark.parametrize("token", [None, ALICE, "00000000-0000-0000-0000-000000000000.x"])
async def test_nobody_gets_into_the_runners_routes_with_anything_else(rest: Rest, token: str | None) -> None:
    for method, path, _ in RUNTIME:
        name = path.removeprefix("/runtime/v1")
        if name in ("/heartbeat", "/ends"):
            continue  # their tokens are in the body: below
        data = None if method == "GET" else RUNTIME_BODIES.get(name, b"{}")
        answer = await rest.call(method, _filled(path), token=token, data=data)
        expected = (401, "Unauthorized")
        if token is not None and name in ("/claim", "/withdraw"):
            expected = (404, "PodUnknown")
        elif token not in (None, ALICE) and method == "POST" and name in ("/steps", "/logs", "/checkpoint", "/extend"):
            expected = (409, "AttemptClosed")  # one statement writes and checks: which of the two it was is not asked
        assert answer.error[:2] == expected, (method, path, answer.text)


async def test_an_end_with_anything_else_than_an_attempts_token_is_refused(rest: Rest) -> None:
    assert (await rest.call("POST", "/runtime/v1/ends", token=None, data=b'{"ends": []}')).status == 401
    for token in (ALICE, "00000000-0000-0000-0000-000000000000.x", ""):
        body = {"ends": [{"token": token, "complete": {"result": 1}}], "claim": {"claimId": "c"}}
        answer = await rest.call("POST", "/runtime/v1/ends", token=ALICE, data=json.dumps(body).encode())
        (end,) = answer.json["ends"]
        assert (end["status"], end["error"]["code"]) == (401, "Unauthorized"), token
        assert "attempts" not in answer.json


async def test_a_heartbeat_for_an_unknown_attempt_is_told_to_stop(rest: Rest) -> None:
    beat = await rest.call("POST", "/runtime/v1/heartbeat", data=b'{"beats": [{"token": "%s"}]}' % ALICE.encode())
    assert beat.json == {"answers": [{"open": False, "leaseMs": 30000}]}


async def test_nobody_gets_into_another_namespace(rest: Rest) -> None:
    for method, path, name in PUBLIC:
        answer = await rest.call(method, _filled(path, namespace="bank"), data=b"{" if method == "POST" else None)
        verb, what = PERMISSIONS[name]
        assert answer.error == (403, "Forbidden", f"alice may not {verb} {what}.windlass.dev in namespace 'bank'.")
        assert answer.json["hint"].startswith(f"Bind a Role with the verb '{verb}' on {what}.windlass.dev")


async def test_a_run_of_another_namespace_is_not_found_by_its_id(rest: Rest) -> None:
    run = (await rest.trigger({})).json["id"]
    await rest.world.database.fetch("UPDATE project SET uid = 'uid-of-bank'")
    for method, path, name in PUBLIC:
        if "{run}" in path:
            answer = await rest.call(method, _filled(path, run=run))
            assert answer.error[:2] == (404, "RunNotFound"), (name, answer.text)


async def test_each_route_asks_for_its_own_permission_and_no_more(rest: Rest) -> None:
    rest.reviews.denied.add("viewer")
    for method, path, name in PUBLIC:
        await rest.call(method, _filled(path), token=VIEWER)
        verb, what = PERMISSIONS[name]
        assert rest.reviews.asked[("viewer", verb, what, "shop")] == 1, name
    kinds = {question for question in rest.reviews.asked if isinstance(question, tuple)}
    assert kinds == {("viewer", *permission, "shop") for permission in PERMISSIONS.values()}


async def test_who_may_only_look_neither_starts_nor_cancels_nor_reads_logs(rest: Rest) -> None:
    refused = set()
    for method, path, name in PUBLIC:
        if (await rest.call(method, _filled(path), token=VIEWER)).status == 403:
            refused.add(name)
    assert refused == {
        "trigger",
        "trigger_batch",
        "cancel",
        "resume",
        "send_event",
        "list_logs",
        "get_attempt_pod",
        "decide_approval",
    }


SUFFIXES = (
    *("/", "//", "/.", "/..", "/../..", "/%2e%2e", "%2f", "%2F..", "/%252e", "%00", "%0a", "%ff", "%c0%af"),
    *(";x=1", "/;/", "%", "%zz", "%3f", "%23", "\\", "%5c", ".json", "/x/y/z", "~", "@", ":8080", "%20", "+", "*"),
)


async def test_odd_suffixes_lead_nowhere(rest: Rest) -> None:
    await asyncio.gather(
        *(_odd(rest, method, _filled(path) + suffix) for method, path, _ in ROUTES for suffix in SUFFIXES)
    )


async def _odd(rest: Rest, method: str, path: str) -> None:
    anonymous = await rest.call(method, path, token=None)
    assert anonymous.status in (400, 401, 404, 405), (method, path, anonymous.text)
    known = await rest.call(method, path)
    assert known.status in (400, 401, 404, 405, 413, 415, 422), (method, path, known.text)
    for answer in (anonymous, known):
        _is_ours(answer)


def _is_ours(answer: Answer) -> None:
    """The server below us answers what is no HTTP; everything else has our body."""
    if answer.text != "Invalid HTTP request received.":
        assert answer.error[2]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/namespaces/bank/../shop/runs",
        "/api/v1/namespaces/bank/%2e%2e/shop/runs",
        "/api/v1/namespaces/shop%2f..%2fbank/runs",
        "/api/v1/namespaces/shop%252f..%252fbank/runs",
        "/api/v1/namespaces//shop/runs",
        "//api/v1/namespaces/shop/runs",
        "/api/v1/namespaces/shop/./runs",
        "/api/v1/namespaces/shop%5c..%5cbank/runs",
        "/api/v1/namespaces/shop%00/runs",
        "/api/v1/namespaces/%ff/runs",
    ],
)
async def test_a_path_that_others_may_read_differently_is_refused_by_name(rest: Rest, path: str) -> None:
    answer = await rest.call("GET", path)
    status, code, message = answer.error
    assert (status, code) == (400, "InvalidRequest")
    assert message.startswith("The path has ")
    assert answer.json["field"] == "path"
    assert not rest.reviews.asked


@pytest.mark.parametrize("name", ["SHOP", "shop%20", "-shop", "shop_", "sh%C3%B6p", "a" * 64, "shop.bank"])
async def test_a_name_that_no_namespace_has_is_not_asked_about(rest: Rest, name: str) -> None:
    answer = await rest.call("GET", f"/api/v1/namespaces/{name}/runs")
    assert answer.error[:2] == (404, "NamespaceNotFound")
    assert rest.reviews.asked == {ALICE: 1}


async def test_letters_may_be_encoded_and_mean_the_same(rest: Rest) -> None:
    assert (await rest.call("GET", "/api/v1/namespaces/%73hop/runs")).status == 200
    assert (await rest.call("GET", "/api/v1/namespaces/%62ank/runs")).error[0] == 403


async def test_a_method_that_is_not_served_is_named(rest: Rest) -> None:
    answer = await rest.call("DELETE", "/api/v1/namespaces/shop/runs")
    assert answer.error == (405, "MethodNotAllowed", "Method Not Allowed.")
    assert answer.headers["Allow"] == "GET"
