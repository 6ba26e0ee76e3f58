"""A Kubernetes API server in memory: lists, watches, versions, conflicts, statuses. What a test needs, and no more.

Nothing is validated and everybody may do everything. Objects of any kind are kept; ``discovered`` says which kinds it
admits to have.
"""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from uuid import uuid4

from aiohttp import web

from windlass_operator.kube.kinds import APPROVALS, CORE_EVENTS, NAMESPACES, PODS, RUNS, SECRETS, TASKS, Kind

Object = dict[str, Any]
Where = tuple[str, str, str]
"""Plural, namespace (empty for none) and name."""

_CRDS: Final = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_DISCOVERED: Final = (PODS, NAMESPACES, SECRETS, CORE_EVENTS, RUNS, TASKS, APPROVALS, _CRDS)
_VERBS: Final = ["create", "delete", "get", "list", "patch", "update", "watch"]


class KubeMemory:
    """The server.

    Attributes:
        objects: All that there is.
        changed: Called after each change with its kind (``ADDED``, ``MODIFIED``, ``DELETED``) and the object; the place
            for a kubelet.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.objects: dict[Where, Object] = {}
        self.changed: Callable[[str, Object], None] = lambda _kind, _body: None
        self.url = ""
        self._version = 0
        self._log: list[tuple[int, str, str, Object]] = []
        self._news = asyncio.Condition()
        self._closed = False

    def put(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Create an object, as somebody with kubectl."""
        name = body["metadata"]["name"]
        meta = {"namespace": namespace, "uid": str(uuid4()), "generation": 1, **body["metadata"]}
        if not namespace:
            del meta["namespace"]
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **body, "metadata": meta}
        meta.setdefault("creationTimestamp", "2030-01-01T00:00:00Z")
        return self._store("ADDED", (kind.plural, namespace, name), full)

    def set_status(self, plural: str, namespace: str, name: str, status: Object) -> None:
        """Write a status, if the object is there."""
        if (body := self.objects.get((plural, namespace, name))) is not None:
            self._store("MODIFIED", (plural, namespace, name), {**body, "status": status})

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Delete an object now, if it is there."""
        where = (plural, namespace, name)
        if (body := self.objects.get(where)) is not None:
            self._store("DELETED", where, body)
            del self.objects[where]

    def of(self, plural: str) -> list[Object]:
        """Return all objects of a kind."""
        return [body for (kind, _, _), body in self.objects.items() if kind == plural]

    def _store(self, change: str, where: Where, body: Object) -> Object:
        self._version += 1
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(self._version)
        self.objects[where] = body
        self._log.append((self._version, change, where[0], body))
        asyncio.get_running_loop().create_task(self._tell())
        self.changed(change, body)
        return body

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def close(self) -> None:
        """End every watch."""
        self._closed = True
        await self._tell()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Serve one call."""
        path = [part for part in request.path.split("/") if part]
        path = path[2:] if path[0] == "api" else path[3:]
        if not path:
            return web.json_response(_discovery(request.path))
        namespace = ""
        if path[0] == "namespaces" and len(path) > 2:
            namespace, path = path[1], path[2:]
        plural, name, sub = (*path, "", "")[:3]
        body: Any = json.loads(text) if (text := await request.text()) else None
        if plural.endswith("reviews"):
            return web.json_response({**body, "status": _review(plural, body["spec"])}, status=201)
        if request.method == "GET" and sub == "log":
            return web.Response(text="")
        if request.method == "GET" and not name:
            return await self._many(request, plural, namespace)
        if request.method == "POST":
            return self._create(plural, namespace, body)
        return self._one(request, (plural, namespace, name), sub, body)

    async def _many(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        wanted = dict(pair.split("=", 1) for pair in request.query.get("labelSelector", "").split(",") if pair)

        def shown(kind: str, body: Object) -> bool:
            labels = body["metadata"].get("labels") or {}
            return (
                kind == plural
                and namespace in ("", body["metadata"].get("namespace"))
                and all(labels.get(key) == value for key, value in wanted.items())
            )

        if "watch" not in request.query:
            items = [body for (kind, _, _), body in self.objects.items() if shown(kind, body)]
            metadata = {"resourceVersion": str(self._version)}
            return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})
        since = int(request.query.get("resourceVersion") or 0)
        stream = web.StreamResponse()
        await stream.prepare(request)
        while not self._closed:
            news, since = [entry for entry in self._log if entry[0] > since], self._version
            for _, change, kind, body in news:
                if shown(kind, body):
                    try:
                        await stream.write(json.dumps({"type": change, "object": body}).encode() + b"\n")
                    except ConnectionError:  # who watched has gone
                        return stream
            await self._after(since)
        return stream

    async def _after(self, version: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._closed or self._version > version)

    def _create(self, plural: str, namespace: str, body: Object) -> web.Response:
        name = body["metadata"]["name"]
        if (plural, namespace, name) in self.objects:
            return _status(409, "AlreadyExists", name)
        group, _, version = body["apiVersion"].rpartition("/")
        return web.json_response(self.put(Kind(group, version, plural, body["kind"]), namespace, body), status=201)

    def _one(self, request: web.Request, where: Where, sub: str, body: Any) -> web.Response:
        found = self.objects.get(where)
        if found is None:
            return _status(404, "NotFound", where[2])
        if request.method == "GET":
            return web.json_response(found)
        if request.method == "DELETE":
            uid = ((body or {}).get("preconditions") or {}).get("uid")
            if uid not in (None, found["metadata"]["uid"]):
                return _status(409, "Conflict", where[2])
            if where[0] == "pods" and found.get("status", {}).get("phase") == "Running":
                meta = {**found["metadata"], "deletionTimestamp": "2030-01-01T00:00:00Z"}
                return web.json_response(self._store("MODIFIED", where, {**found, "metadata": meta}))
            self.remove(*where)
            return web.json_response(found)
        return self._patch(where, sub, found, body)

    def _patch(self, where: Where, sub: str, found: Object, body: Any) -> web.Response:
        new = copy.deepcopy(found)
        if isinstance(body, list):  # a JSON patch: ours tests the UID and then sets the status
            if body[0]["value"] != found["metadata"]["uid"]:
                return _status(422, "Invalid", where[2])
            new["status"] = body[1]["value"]
        else:
            version = (body.get("metadata") or {}).get("resourceVersion")
            if version not in (None, found["metadata"]["resourceVersion"]):
                return _status(409, "Conflict", where[2])
            if (body.get("metadata") or {}).get("uid") not in (None, found["metadata"]["uid"]):
                return _status(422, "Invalid", where[2])  # the field is immutable
            _merge(new, {"status": body.get("status")} if sub == "status" else body)
        if new.get("spec") != found.get("spec"):
            new["metadata"]["generation"] += 1
        if new != found:
            new = self._store("MODIFIED", where, new)
        return web.json_response(new)


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def _status(code: int, reason: str, name: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return web.json_response({**body, "message": reason, "details": {"name": name}}, status=code)


def _review(plural: str, spec: Object) -> Object:
    if plural == "tokenreviews":
        return {"authenticated": True, "audiences": spec["audiences"], "user": {"username": "tester", "groups": []}}
    return {"allowed": True}


def _discovery(path: str) -> Object:
    if path.endswith("/version"):
        return {"major": "1", "minor": "36"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = {kind.group: kind.version for kind in _DISCOVERED if kind.group}
    if path == "/apis":
        return {
            "kind": "APIGroupList",
            "groups": [
                {
                    "name": group,
                    "versions": [{"version": version, "groupVersion": f"{group}/{version}"}],
                    "preferredVersion": {"version": version, "groupVersion": f"{group}/{version}"},
                }
                for group, version in groups.items()
            ],
        }
    kinds = [kind for kind in _DISCOVERED if path.endswith(f"/{kind.api_version}")]
    resources = [
        {
            "name": kind.plural + sub,
            "kind": kind.kind,
            "singularName": kind.kind.lower(),
            "namespaced": kind.namespaced,
            "verbs": _VERBS,
        }
        for kind in kinds
        for sub in ("", "/status")
    ]
    return {"kind": "APIResourceList", "resources": resources}


@contextlib.asynccontextmanager
async def kube_memory() -> AsyncIterator[KubeMemory]:
    """Run a server while the block runs."""
    kube = KubeMemory()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", kube.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kube.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield kube
    finally:
        await kube.close()
        await runner.cleanup()
