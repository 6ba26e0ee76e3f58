"""The public API, for applications: trigger runs, wait for results.

The address and the credential come from the environment: ``WINDLASS_URL``; ``WINDLASS_TOKEN``, or a file that
``WINDLASS_TOKEN_FILE`` names (read anew for each call, as projected tokens change); ``WINDLASS_NAMESPACE``, else the
namespace of the pod's service account, else ``default``.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from windlass import traces
from windlass.connection import Connection
from windlass.context import active
from windlass.durations import parse_duration, write_duration
from windlass.errors import ApiError, RunFailedError, StepError

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LONGEST_POLL: Final = 30.0
BATCH_LIMIT: Final = 1000
"""Runs that one call starts at most."""
FINAL_STATES: Final = frozenset({"Succeeded", "Failed", "TimedOut", "Cancelled", "Expired"})


class RunHandle:
    """A run that was triggered.

    Attributes:
        id: The run's id.
        namespace: Where it runs.
    """

    def __init__(self, client: "Client | None", run_id: str, namespace: str = "") -> None:
        self._given = client
        self.id = run_id
        self.namespace = client.namespace if client is not None else namespace

    @property
    def _client(self) -> "Client":
        """Made where it is needed: the code of a run starts others without an address or a token of its own.

        Raises:
            StepError: Needed in that code: a call would hold the pod, or find no token.
        """
        if self._given is None:
            if active() is not None:
                raise StepError(
                    f"The code of a run has no access to the run that it started, {self.id}. To wait for its result, "
                    "without a pod, start it by trigger_and_wait(), or several by batch_trigger_and_wait(). "
                    "To look at it, call windlass.Client().get(handle.id) in a step; that needs a token."
                )
            self._given = Client(namespace=self.namespace)
        return self._given

    def __repr__(self) -> str:
        return f"RunHandle({self.namespace}/{self.id})"

    def get_sync(self) -> dict[str, Any]:
        """Return the run as it is now. See :meth:`result_sync` for errors."""
        return self._client.get(self.id)

    def result_sync(self, timeout: str | timedelta | None = None) -> Any:
        """Wait for the run's end and return its result, as plain JSON values.

        Args:
            timeout: How long to wait; None waits for ever.

        Raises:
            RunFailedError: The run ended without a result.
            TimeoutError: It has not ended yet.
            ApiError: The API refused the request or cannot be reached.
            StepError: Called in the run that started it: use ``trigger_and_wait`` there.
        """
        return self._client.result(self.id, timeout)

    async def get(self) -> dict[str, Any]:
        """Return the run as it is now."""
        import asyncio

        return await asyncio.to_thread(self.get_sync)

    async def result(self, timeout: str | timedelta | None = None) -> Any:  # noqa: ASYNC109 - the API's own wait, not a cancellation
        """Wait for the run's end and return its result; see :meth:`result_sync`."""
        import asyncio

        return await asyncio.to_thread(self.result_sync, timeout)


@dataclass(frozen=True)
class SentEvent:
    """An event that was sent from outside of any run.

    Attributes:
        id: Its id.
        runs: How many runs had got it when the answer was made; those that wait for it later are not counted.
    """

    id: str
    runs: int


class Client:
    """The API as one caller sees it.

    Args:
        url: Of the API; ``WINDLASS_URL`` by default.
        token: A Kubernetes token of audience ``windlass``; from the environment by default.
        namespace: Whose tasks and runs; from the environment by default.

    Attributes:
        timeout: Seconds that a call may take, where the call itself does not wait for something.
    """

    def __init__(self, url: str | None = None, token: str | None = None, namespace: str | None = None) -> None:
        self.url = url or os.environ.get("WINDLASS_URL", "")
        if not self.url:
            raise ApiError("NotConfigured", "WINDLASS_URL is not set: the address of the Windlass API.")
        self._token = token
        self.timeout = 30.0
        self.namespace = namespace or os.environ.get("WINDLASS_NAMESPACE") or _pod_namespace()

    def use_token(self, token: str) -> None:
        """Send this token from now on."""
        self._token = token

    def trigger(
        self,
        task: str,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        version: int | None = None,
        idempotency_key: str | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> RunHandle:
        """Start a run; it is durable when this returns. Models and dataclasses become JSON.

        The run joins the trace of the calling code, if that uses OpenTelemetry or is a run itself.

        Args:
            task: Name of the Task.
            payload: Its argument.
            tags: Words to find the run by.
            version: A version of the Task; None for the current one.
            idempotency_key: A word for this run: if one that has not failed was started with it in the last 30 days,
                that run is returned and nothing is started. With a key, this call may be repeated after any error.
            delay: Start no earlier than this long from now, such as ``"10m"``.
            start_at: Start no earlier than this time, which is aware, and no earlier than ``delay`` says.
            queue_ttl: End the run as Expired if no attempt has begun this long after it might have.

        Raises:
            ApiError: The API refused it (``QueueFull``: as many runs wait as its queue allows) or cannot be reached.
        """
        body = _asked(payload, tags, version, idempotency_key) | when(delay, start_at, queue_ttl)
        run = self.call("POST", f"tasks/{quote(task, safe='')}/runs", body=body)
        return RunHandle(self, run["id"])

    def send_event(self, name: str, payload: Any = None, *, id: str | None = None) -> SentEvent:  # noqa: A002 - the event's own word
        """Send an event to the runs of the namespace that wait for it, now or later; it is durable when this returns.

        Args:
            name: What they wait for.
            payload: Its content, at most 64 KiB of JSON. Models and dataclasses become JSON.
            id: A word for this event: a repeat with the same one reaches nobody again. With an id, this call may be
                repeated after any error.

        Raises:
            ApiError: The API refused it or cannot be reached.
        """
        from windlass.serialization import encode

        body: dict[str, Any] = {"name": name, "payload": json.loads(encode(payload, what="payload"))}
        if id is not None:
            body["id"] = id
        sent = self.call("POST", "events", body=body)
        return SentEvent(sent["id"], sent["runs"])

    def batch_trigger(
        self,
        task: str,
        payloads: Iterable[Any],
        *,
        tags: tuple[str, ...] = (),
        version: int | None = None,
        idempotency_keys: Sequence[str | None] | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> list[RunHandle]:
        """Start a run for each payload, up to 1,000, in one call: all of them or none.

        Args:
            task: Name of the Task.
            payloads: The argument of each run.
            tags: Words to find the runs by.
            version: A version of the Task; None for the current one.
            idempotency_keys: A word for each run, as for :meth:`trigger`.
            delay: As for :meth:`trigger`, of all of them.
            start_at: The same.
            queue_ttl: The same.

        Raises:
            ApiError: The API refused one of them, which ``field`` names, or cannot be reached. Nothing was started.
            ValueError: More than 1,000 payloads, or another number of keys.
        """
        items = list(payloads)
        keys = keys_of(items, idempotency_keys)
        if len(items) > BATCH_LIMIT:
            raise ValueError(f"{len(items)} payloads in one batch; {BATCH_LIMIT} is the most. Divide them.")
        if not items:
            return []
        timing = when(delay, start_at, queue_ttl)
        asked = [_asked(payload, tags, version, key) | timing for payload, key in zip(items, keys, strict=True)]
        body = {"items": asked}
        made = self.call("POST", f"tasks/{quote(task, safe='')}/runs:batch", body=body)
        return [RunHandle(self, run["id"]) for run in made["items"]]

    def get(self, run: str) -> dict[str, Any]:
        """Return a run by its id or by the name of its resource."""
        found: dict[str, Any] = self.call("GET", _run(run))
        return found

    def list_page(self, **filters: Any) -> dict[str, Any]:
        """Return a page of runs: ``items``, ``nextCursor``.

        Filters: task, parent, state, tag (these two one or a list), createdAfter, createdBefore, error, sort, limit,
        cursor.
        """
        page: dict[str, Any] = self.call("GET", "runs", query=filters)
        return page

    def tree(self, run: str) -> dict[str, Any]:
        """Return a run and those that it has led to: ``items``, parents before their children, and ``truncated``."""
        found: dict[str, Any] = self.call("GET", _run(run, "tree"))
        return found

    def explain(self, run: str) -> dict[str, Any]:
        """Return why a run is not running: ``waitsFor``, everything that it waits for, and how many go before it."""
        found: dict[str, Any] = self.call("GET", _run(run, "explain"))
        return found

    def queues(self) -> list[dict[str, Any]]:
        """Return the queues of the namespace by name, with their limits and how full they are."""
        return self._by_name("queues")

    def pools(self) -> list[dict[str, Any]]:
        """Return the worker pools of the namespace by name, with their limits and what their pods do."""
        return self._by_name("pools")

    def _by_name(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.call("GET", what, query={"after": after, "limit": 500})
            found += page["items"]
            if page["nextCursor"] is None:
                return found
            after = page["nextCursor"]

    def steps(self, run: str) -> list[dict[str, Any]]:
        """Return the steps of a run."""
        return self._all(_run(run, "steps"))

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """Return the attempts of a run: how each ended, and what became of its pod."""
        found: list[dict[str, Any]] = self.call("GET", _run(run, "attempts"))["items"]
        return found

    def events(self, run: str) -> list[dict[str, Any]]:
        """Return what happened to a run."""
        return self._all(_run(run, "events"))

    def logs(self, run: str, *, after: str = "0.0", wait: str = "0s") -> dict[str, Any]:
        """Return log lines after a cursor: ``items``, ``nextCursor``, ``finished``."""
        page: dict[str, Any] = self.call("GET", _run(run, "logs"), query={"after": after, "wait": wait}, timeout=90)
        return page

    def approvals_page(self, **filters: Any) -> dict[str, Any]:
        """Return a page of what runs ask people: ``items``, ``nextCursor``.

        Filters: state (one or a list), limit, cursor.
        """
        page: dict[str, Any] = self.call("GET", "approvals", query=filters)
        return page

    def approval(self, name: str) -> dict[str, Any]:
        """Return an approval with its details."""
        found: dict[str, Any] = self.call("GET", f"approvals/{quote(name, safe='')}")
        return found

    def decide(self, name: str, decision: str, *, comment: str | None = None) -> dict[str, Any]:
        """Approve or refuse, in the name of the token's owner, and return the approval. The first decision counts.

        Args:
            name: Of the approval.
            decision: ``Approved`` or ``Refused``.
            comment: Why.

        Raises:
            ApiError: ``ApprovalDecided``, ``ApprovalExpired``, ``ApprovalWithdrawn``: it is too late.
        """
        body = {"decision": decision} | ({"comment": comment} if comment is not None else {})
        decided: dict[str, Any] = self.call("POST", f"approvals/{quote(name, safe='')}/decision", body=body)
        return decided

    def cancel(self, run: str) -> dict[str, Any]:
        """Ask for a run's end and return the run."""
        cancelled: dict[str, Any] = self.call("POST", _run(run, "cancel"))
        return cancelled

    def resume(self, run: str, *, version: int | None = None) -> dict[str, Any]:
        """Let a suspended run go on after its finished steps, and return it.

        Args:
            run: Its id, or the name of its resource.
            version: Of its Task; the newest by default.

        Raises:
            ApiError: It is not suspended (code ``RunNotSuspended``), or the Task is not there.
        """
        body = {} if version is None else {"version": version}
        resumed: dict[str, Any] = self.call("POST", _run(run, "resume"), body=body)
        return resumed

    def result(self, run: str, timeout: str | timedelta | None = None) -> Any:
        """Wait for a run's end and return its result; see :meth:`RunHandle.result_sync`."""
        until = None if timeout is None else time.monotonic() + parse_duration(timeout).total_seconds()
        while True:
            left = _LONGEST_POLL if until is None else min(_LONGEST_POLL, max(0.0, until - time.monotonic()))
            try:
                status, value = self._send(
                    "GET", _run(run, "result"), {"wait": f"{round(left * 1000)}ms"}, None, timeout=left + 30
                )
            except ApiError as error:
                if error.status == 409 and error.code.startswith("Run"):
                    raise RunFailedError(error.code.removeprefix("Run"), error.message) from None
                raise
            if status == 200:
                return value
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"Run {run} is still {value.get('state')} after {timeout}.")

    def _all(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        after: Any = 0
        while after is not None:
            page = self.call("GET", path, query={"after": after})
            items += page["items"]
            after = page["nextCursor"]
        return items

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """Call a route of the namespace and return the decoded answer.

        Raises:
            ApiError: The API refused it or cannot be reached.
        """
        return self._send(method, path, query, body, timeout=timeout or self.timeout)[1]

    def look(self, path: str) -> tuple[int, Any]:
        """Return status and answer of a path that needs no credential, such as ``/healthz``; None if it is not JSON.

        Raises:
            ApiError: The API cannot be reached.
        """
        parts, port = _address(self.url)
        ask = _ask_encrypted if parts.scheme == "https" else _ask
        target = quote(parts.path.rstrip("/")) + path
        try:
            status, data = ask(parts.hostname or "", port, "GET", target, {}, None, self.timeout)
        except OSError as error:
            raise _unreachable(self.url, error) from None
        try:
            return status, json.loads(data)
        except ValueError:
            return status, None

    def subject(self) -> str | None:
        """Return whose token is sent, by its own words; None if it is no JSON Web Token.

        Nothing is verified: the API does that, and this is for people.
        """
        import base64

        try:
            claims = self._credential().split(".")[1]
            subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
        except (ValueError, LookupError, TypeError):
            return None
        return subject if isinstance(subject, str) else None

    def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, *, timeout: float
    ) -> tuple[int, Any]:
        parts, port = _address(self.url)
        wanted = {k: v for k, v in (query or {}).items() if v is not None}
        target = f"{quote(parts.path.rstrip('/'))}/api/v1/namespaces/{quote(self.namespace, safe='')}/{path}"
        target += f"?{urlencode(wanted, doseq=True)}" if wanted else ""
        credential = self._credential()
        if not credential.isascii() or not credential.isprintable():
            raise ApiError("NotConfigured", "The token has characters that no token has; was it copied whole?")
        ask = _ask_encrypted if parts.scheme == "https" else _ask
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {credential}"}
        traceparent = traces.current() if method == "POST" else None
        if traceparent is not None:
            headers["traceparent"] = traceparent
        try:
            answer_status, data = ask(parts.hostname or "", port, method, target, headers, content, timeout)
        except OSError as error:
            raise _unreachable(self.url, error) from None
        if answer_status >= 300:
            raise _error(answer_status, data)
        try:
            return answer_status, json.loads(data) if data else None
        except ValueError:
            text = f"{self.url} answered with something that is not JSON. Is it the address of the Windlass API?"
            raise ApiError("NotOurApi", text, status=answer_status) from None

    def _credential(self) -> str:
        if self._token:
            return self._token
        path = os.environ.get("WINDLASS_TOKEN_FILE")
        if path:
            try:
                return Path(path).read_text().strip()
            except (OSError, ValueError) as error:
                raise ApiError("NotConfigured", f"WINDLASS_TOKEN_FILE cannot be read: {error}") from None
        token = os.environ.get("WINDLASS_TOKEN", "").strip()
        if not token:
            raise ApiError(
                "NotConfigured",
                "Neither WINDLASS_TOKEN nor WINDLASS_TOKEN_FILE is set. "
                "In a pod, project a service-account token with audience `windlass`.",
            )
        return token


def keys_of(payloads: list[Any], keys: Sequence[str | None] | None) -> Sequence[str | None]:
    """Return the idempotency key of each payload.

    Raises:
        ValueError: There is another number of keys.
    """
    if keys is not None and len(keys) != len(payloads):
        raise ValueError(f"{len(keys)} idempotency keys for {len(payloads)} payloads: each needs one, or None.")
    return [None] * len(payloads) if keys is None else keys


def _asked(payload: Any, tags: tuple[str, ...], version: int | None, idempotency_key: str | None) -> dict[str, Any]:
    from windlass.serialization import encode  # late: reading runs needs none of it

    value = json.loads(encode(payload, what="payload"))
    body = {"payload": value, "tags": list(tags)} | ({"version": version} if version else {})
    return body if idempotency_key is None else body | {"idempotencyKey": idempotency_key}


Timing = tuple[str | timedelta | None, datetime | None, str | timedelta | None]
"""``delay``, ``start_at`` and ``queue_ttl`` of a run."""


def when(
    delay: str | timedelta | None = None,
    start_at: datetime | None = None,
    queue_ttl: str | timedelta | None = None,
) -> dict[str, str]:
    """Return what a request says of when its run is to start, in the API's words.

    Raises:
        ValueError: A time has no time zone.
    """
    if start_at is not None and start_at.tzinfo is None:
        raise ValueError("start_at has no time zone: give an aware datetime, such as datetime.now(UTC).")
    found = {
        "delay": None if delay is None else _written(delay),
        "startAt": None if start_at is None else start_at.isoformat(),
        "queueTTL": None if queue_ttl is None else _written(queue_ttl),
    }
    return {name: value for name, value in found.items() if value is not None}


def _written(value: str | timedelta) -> str:
    return value if isinstance(value, str) else write_duration(value)


def _address(url: str) -> tuple[SplitResult, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if port == -1 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ApiError("NotConfigured", f"{url[:200]!r} is no address. Write for example http://localhost:8080.")
    return parts, port


def _ask(
    host: str,
    port: int | None,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout: float,
) -> tuple[int, bytes]:
    sent = {"Content-Type": "application/json", "Connection": "close", **headers}
    connection = Connection(host, port or 80, timeout=timeout)
    try:
        answer = connection.call(method, target, "".join(f"{k}: {v}\r\n" for k, v in sent.items()), body)
    finally:
        connection.close()
    return answer.status, answer.body


def _ask_encrypted(
    host: str,
    port: int | None,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout: float,
) -> tuple[int, bytes]:
    import http.client  # late: 50 ms, a quarter of what the command line may take

    connection = http.client.HTTPSConnection(host, port, timeout=timeout)
    try:
        connection.request(method, target, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__} {error}") from None
    finally:
        connection.close()


def _unreachable(url: str, error: OSError) -> ApiError:
    return ApiError("ApiUnreachable", f"The Windlass API at {url} does not answer: {error}")


def _run(run: str, part: str = "") -> str:
    return f"runs/{quote(run, safe='')}" + (f"/{part}" if part else "")


def _pod_namespace() -> str:
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.exists() else "default"


def _error(status: int, data: bytes) -> ApiError:
    try:
        body = json.loads(data)
        return ApiError(body["code"], body["message"], status=status, field=body.get("field"), hint=body.get("hint"))
    except (ValueError, KeyError, TypeError):
        return ApiError(f"Http{status}", data[:200].decode(errors="replace") or f"HTTP {status}", status=status)
