"""The runtime API as the runner of a reusable pod sees it: real HTTP, runs in a list, and trouble on demand."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import msgspec

from windlass import protocol

SESSION = "session-of-the-pod"


@dataclass
class Attempt:
    """One attempt that was handed out, and what came of it."""

    claimed: protocol.ClaimedAttempt
    claim_id: str
    ending: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@dataclass
class FakeRuntime:
    """Hands out runs to one pod.

    Attributes:
        slots: What the pod may hold at once.
        waiting: Runs that nobody has taken: entrypoint and source.
        attempts: All that were handed out, by token.
        calls: How often each route was called.
        claims: The claim ids of each route, in order.
        most_open: The most attempts that were open at once.
        leave: Said to the pod from now on.
        lose: Routes whose next answer is lost: the connection ends instead, as often as it says.
        down: The next calls of all routes are answered 503, so many.
        withdrawn: Claim ids that were withdrawn.
    """

    url: str = ""
    slots: int = 4
    waiting: list[tuple[str, str | None]] = field(default_factory=list)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    claims: list[tuple[str, str, int]] = field(default_factory=list)
    most_open: int = 0
    leave: bool = False
    lose: Counter[str] = field(default_factory=Counter)
    down: int = 0
    cancelled: bool = False
    closed: set[str] = field(default_factory=set)
    withdrawn: list[str] = field(default_factory=list)
    heartbeat_ms: int = 10_000
    grace_ms: int = 10_000
    attempt_timeout_ms: int | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def submit(self, body: str, count: int = 1, *, entrypoint: str = "job:main", baked: bool = False) -> None:
        """Queue runs of a module's text, or of a module of the image."""
        source = None if baked else f"from windlass import *\n{body}"
        with self.changed:
            self.waiting += [(entrypoint, source)] * count
            self.changed.notify_all()

    def ended(self) -> list[Attempt]:
        """Return the attempts that ended."""
        return [attempt for attempt in list(self.attempts.values()) if attempt.ending]

    def open(self) -> list[Attempt]:
        """Return the attempts that have not ended."""
        return [attempt for attempt in list(self.attempts.values()) if not attempt.ending]

    def lines(self) -> list[str]:
        """Return all lines of all logs."""
        return [line for attempt in list(self.attempts.values()) for line in attempt.lines]

    def results(self) -> list[Any]:
        """Return what the runs returned."""
        return [attempt.body.get("result") for attempt in self.ended() if attempt.ending == "complete"]

    def failures(self) -> list[dict[str, Any]]:
        """Return what the failed attempts say."""
        return [attempt.body["failure"] for attempt in self.ended() if attempt.ending == "fail"]

    def answer(self, route: str, token: str, body: Any) -> tuple[int, Any]:
        """Return status and body."""
        if route == "claim":
            return self._claim(token, body)
        if route == "withdraw":
            return self._withdraw(body)
        if route == "heartbeat":
            return 200, {"answers": [self._beat(beat["token"]) for beat in body["beats"]]}
        if route == "ends":
            return self._ends(token, body)
        attempt = self.attempts.get(token)
        if attempt is None:
            return 401, {"code": "Unauthorized", "message": "no such token"}
        if route == "logs":
            attempt.lines += [line["text"] for line in body["lines"]]
            return 200, {}
        if route in ("complete", "fail", "release"):
            return self._end(attempt, route, body)
        return 404, {"code": "NotFound", "message": route}

    def _beat(self, token: str) -> dict[str, Any]:
        attempt = self.attempts[token]
        return {"open": not attempt.ending, "leaseMs": 30_000, "cancel": self.cancelled}

    def _claim(self, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        first = body.get("credential", "secret") != "session"
        if not first and token != SESSION:
            return 401, {"code": "Unauthorized", "message": "no such session"}
        until = time.monotonic() + body.get("waitMs", 10_000) / 1000
        claim_id = body["claimId"]
        with self.changed:
            self.claims.append(("claim", claim_id, body.get("slots", 1)))
            while not (taken := self._take(claim_id, body.get("slots", 1))):
                left = until - time.monotonic()
                if left <= 0 or self.leave or claim_id in self.withdrawn:
                    break
                self.changed.wait(left)
        return 200, {
            "attempts": taken,
            "again": not self.leave,
            "leave": self.leave,
            "slots": self.slots,
            **({"session": SESSION} if first else {}),
        }

    def _take(self, claim_id: str, slots: int) -> list[Any]:
        """Called with the lock held."""
        if claim_id in self.withdrawn or self.leave:
            return []
        held = [attempt for attempt in self.attempts.values() if attempt.claim_id == claim_id]
        if held:  # a repeat: what is still open, with new tokens
            return [self._hand_out(attempt.claimed, claim_id) for attempt in held if not attempt.ending]
        free = self.slots - len(self.open())
        taken = []
        for entrypoint, source in self.waiting[: min(slots, free)]:
            name = str(uuid4())
            claimed = protocol.ClaimedAttempt(
                attempt_id=name,
                token="",
                run_id=name,
                number=1,
                max_attempts=1,
                task="job",
                namespace="shop",
                entrypoint=entrypoint,
                source=source,
                lease_ms=10_000,
                heartbeat_ms=self.heartbeat_ms,
                grace_ms=self.grace_ms,
                attempt_timeout_ms=self.attempt_timeout_ms,
            )
            taken.append(self._hand_out(claimed, claim_id))
        del self.waiting[: len(taken)]
        self.most_open = max(self.most_open, len(self.open()))
        return taken

    def _hand_out(self, claimed: protocol.ClaimedAttempt, claim_id: str) -> Any:
        self.attempts.pop(claimed.token, None)
        claimed.token = f"{claimed.attempt_id}.{uuid4().hex}"
        self.attempts[claimed.token] = Attempt(claimed, claim_id)
        return msgspec.to_builtins(claimed)

    def _withdraw(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self.changed:
            self.withdrawn.append(body["claimId"])
            for attempt in self.open():
                if attempt.claim_id == body["claimId"]:
                    self._hand_back(attempt)
            self.changed.notify_all()
        return 200, {}

    def _hand_back(self, attempt: Attempt) -> None:
        attempt.ending = "release"
        self.waiting.append((attempt.claimed.entrypoint, attempt.claimed.source))

    def _ends(self, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        if token != SESSION:
            return 401, {"code": "Unauthorized", "message": "no such session"}
        answers = []
        for end in body["ends"]:
            route = "complete" if "complete" in end else "fail"
            status, answer = self._end(self.attempts[end["token"]], route, end[route])
            answers.append({"outcome" if status == 200 else "error": answer, "status": status})
        taken = []
        with self.changed:
            if "claim" in body:
                claim_id, slots = body["claim"]["claimId"], body["claim"].get("slots", 1)
                self.claims.append(("ends", claim_id, slots))
                taken = (
                    [] if any(a.claim_id == claim_id for a in self.attempts.values()) else self._take(claim_id, slots)
                )
        return 200, {"ends": answers, "attempts": taken, "leave": self.leave}

    def _end(self, attempt: Attempt, route: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.changed:
            if attempt.claimed.token in self.closed or (attempt.ending and attempt.ending != route):
                return 409, {"code": protocol.AttemptClosed, "message": "closed"}
            repeated = bool(attempt.ending)
            if route == "release" and not repeated:
                self._hand_back(attempt)
            attempt.ending, attempt.body = route, body
            taken = []
            if "claim" in body and not repeated:
                claim_id, slots = body["claim"]["claimId"], body["claim"].get("slots", 1)
                self.claims.append((route, claim_id, slots))
                taken = self._take(claim_id, slots)
            self.changed.notify_all()
        return 200, {"state": "Succeeded", "attempts": taken, "leave": self.leave}


@contextmanager
def fake_runtime() -> Iterator[FakeRuntime]:
    """Serve a fake runtime API on a port of its own."""
    fake = FakeRuntime()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
            route = self.path.removeprefix(f"{protocol.PREFIX}/")
            fake.calls[route] += 1
            if fake.down > 0:
                fake.down -= 1
                self._say(503, {"code": "LedgerUnavailable", "message": "down"})
                return
            status, answer = fake.answer(route, self.headers.get("Authorization", "").removeprefix("Bearer "), body)
            if fake.lose[route] > 0:
                fake.lose[route] -= 1
                self.close_connection = True
                return
            self._say(status, answer)

        def _say(self, status: int, answer: Any) -> None:
            data = msgspec.json.encode(answer)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:  # quiet
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a runner that was killed in the middle of a call is no news
            return

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
