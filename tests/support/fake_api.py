"""The public API as the command line sees it: real HTTP, a ledger of dictionaries, and outages on demand."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FINAL = ("Succeeded", "Failed", "TimedOut", "Cancelled")


def a_run(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a run as the API shows it."""
    return {
        "id": f"01900000-0000-7000-8000-{number:012d}",
        "namespace": "shop",
        "task": "order",
        "name": None,
        "tags": [],
        "createdAt": "2030-01-01T08:00:00.000000Z",
        "state": "Running",
        "attempt": 1,
        "steps": {"succeeded": 0, "failed": 0, "running": 0, "waiting": 0},
        **changes,
    }


def a_step(key: str, state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    """Return a step that took 12 ms."""
    ended = {} if state == "running" else {"finishedAt": "2030-01-01T08:00:01.012000Z", "result": {"of": key}}
    return {
        "key": key,
        "name": key,
        "state": state,
        "attempt": 1,
        "startedAt": "2030-01-01T08:00:01.000000Z",
        **ended,
        **changes,
    }


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: str
    token: str


@dataclass
class FakeApi:
    """Answers from what a test put in.

    Attributes:
        url: Of the server.
        runs: By id, oldest first.
        logs: Lines of each run, as texts.
        steps: Of each run.
        events: Of each run.
        results: Of each run.
        refuse: Status and body for a path that ends so; None closes the connection without an answer.
        seen: The requests, in order.
        on_logs: Called before each answer of the logs, with the run's id and how often it was asked.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    refuse: dict[str, tuple[int, Any] | None] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    on_logs: Any = None
    version: str = "0.1.0"
    cut: int = 0
    """So many next answers are broken off in their middle."""

    def add(self, run: dict[str, Any]) -> dict[str, Any]:
        """Keep a run."""
        self.runs[run["id"]] = run
        return run

    def end(self, run_id: str, state: str = "Succeeded", **more: Any) -> None:
        """Let a run end."""
        self.runs[run_id] |= {"state": state, **more}

    def find(self, name: str) -> dict[str, Any] | None:
        """Return a run by id or name."""
        return self.runs.get(name) or next((run for run in self.runs.values() if run["name"] == name), None)

    def asked(self, end: str) -> list[Request]:
        """Return the requests whose path ends so."""
        return [request for request in self.seen if request.path.endswith(end)]

    def answer(self, request: Request) -> tuple[int, Any] | None:
        """Return status and body."""
        if request.path.startswith("/api/v1/namespaces/") and not request.token:
            return 401, {"code": "Unauthorized", "message": "Send a token."}
        self.seen.append(request)
        for end, refusal in self.refuse.items():
            if request.path.endswith(end):
                return refusal
        if request.path in ("/healthz", "/readyz"):
            return 200, {"status": "ok"}
        if request.path == "/openapi.json":
            return 200, {"info": {"version": self.version}}
        return self._namespaced(request)

    def _namespaced(self, request: Request) -> tuple[int, Any] | None:
        if not request.path.startswith("/api/v1/namespaces/"):
            return 404, {"code": "NotFound", "message": "Not Found."}
        parts = request.path.removeprefix("/api/v1/namespaces/").split("/")
        if parts[1] == "tasks":
            return self._trigger(parts[2], request)
        if parts[1] == "events":
            return 201, {"id": json.loads(request.body)["id"], "runs": 2}
        if len(parts) == 2:
            return self._list(request)
        run = self.find(parts[2])
        if run is None:
            return 404, {"code": "RunNotFound", "message": f"Run {parts[2]!r} is not in namespace {parts[0]!r}."}
        return self._run(run, parts[3] if len(parts) > 3 else "", request)

    def _trigger(self, task: str, request: Request) -> tuple[int, Any]:
        try:
            body = json.loads(request.body)
        except ValueError:
            return 400, {"code": "InvalidRequest", "message": "The body is not JSON.", "field": "body"}
        run = self.add(a_run(len(self.runs) + 1, task=task, payload=body.get("payload"), tags=body.get("tags") or []))
        return 201, run

    def _list(self, request: Request) -> tuple[int, Any]:
        query = request.query
        found = list(reversed(self.runs.values()))
        found = [run for run in found if run["state"] in query.get("state", [run["state"]])]
        found = [run for run in found if run["task"] in query.get("task", [run["task"]])]
        start, limit = int(query.get("cursor", ["0"])[0]), int(query.get("limit", ["50"])[0])
        more = str(start + limit) if start + limit < len(found) else None
        return 200, {"items": found[start : start + limit], "nextCursor": more}

    def _run(self, run: dict[str, Any], part: str, request: Request) -> tuple[int, Any]:
        finished = run["state"] in FINAL
        if part == "logs":
            return self._logs(run, request)
        if part in ("steps", "attempts", "events"):
            items = {"steps": self.steps, "attempts": self.attempts, "events": self.events}[part].get(run["id"], [])
            return 200, {"items": items, "nextCursor": None}
        if part == "cancel":
            run["state"] = run["state"] if finished else "Cancelling"
            return 202, run
        if part == "result":
            return (200, self.results.get(run["id"])) if run["state"] == "Succeeded" else (202, run)
        return 200, run

    def _logs(self, run: dict[str, Any], request: Request) -> tuple[int, Any]:
        if self.on_logs is not None:
            self.on_logs(run["id"], len(self.asked("/logs")))
        after = int(request.query["after"][0].split(".")[1])
        limit = int(request.query.get("limit", ["1000"])[0])
        until = time.monotonic() + min(0.1, float(request.query.get("wait", ["0ms"])[0].removesuffix("ms")) / 1000)
        while True:
            lines = self.logs.get(run["id"], [])[after : after + limit]
            finished = run["state"] in FINAL
            if lines or finished or time.monotonic() >= until:
                break
            time.sleep(0.01)
        items = [{"attempt": 1, "seq": after + n + 1, "text": text} for n, text in enumerate(lines)]
        done = finished and after + len(lines) == len(self.logs.get(run["id"], []))
        return 200, {"items": items, "nextCursor": f"1.{after + len(lines)}", "finished": done}


@contextmanager
def fake_api(tls: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
    """Serve a fake API on a port of its own, encrypted if ``tls`` says how."""
    api = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            answer = api.answer(Request(self.command, parts.path, parse_qs(parts.query), body, token))
            if answer is None:
                return
            data = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if api.cut > 0:
                api.cut -= 1
                data = data[: len(data) // 2]
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: Any) -> None:  # quiet
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        api.url = api.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
