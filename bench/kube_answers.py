"""A process that answers as the Kubernetes API server does, with little CPU: reviews, one namespace, one Task.

Prints its address. Each answer takes as long as a real one's: an API server needs some milliseconds, not none.
"""

import asyncio
import json
import sys
from typing import Final, cast

import uvloop

NAMESPACE, TASK, TOKEN = "shop", "order", "t0ken"
_TAKES: Final = 0.002
"""Seconds. A GET of a custom resource on the cluster of the end-to-end tests takes 1.5 to 4 ms."""
_SPEC: Final = {
    "image": "docker.io/windlass/runner:dev",
    "entrypoint": "order:process_order",
    "queue": "payments",
    "payloadSchema": {
        "type": "object",
        "required": ["orderId"],
        "properties": {"orderId": {"type": "integer"}, "note": {"type": "string"}},
    },
    "env": [{"name": "MODE", "value": "live"}],
    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
}
_META: Final = {"uid": "0a5e8c1c-4f1e-4b2c-9f0a-0123456789ab", "resourceVersion": "4711", "generation": 1}
_USER: Final = {"username": "system:serviceaccount:shop:app", "uid": "u-1", "groups": ["system:authenticated"]}
_ANSWERS: Final[dict[bytes, dict[str, object]]] = {
    b"/apis/authentication.k8s.io/v1/tokenreviews": {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {"authenticated": True, "user": _USER, "audiences": ["windlass"]},
    },
    b"/apis/authorization.k8s.io/v1/subjectaccessreviews": {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "status": {"allowed": True},
    },
    f"/api/v1/namespaces/{NAMESPACE}".encode(): {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, **_META},
    },
    f"/apis/windlass.dev/v1alpha1/namespaces/{NAMESPACE}/tasks/{TASK}".encode(): {
        "apiVersion": "windlass.dev/v1alpha1",
        "kind": "Task",
        "metadata": {"name": TASK, "namespace": NAMESPACE, **_META},
        "spec": _SPEC,
    },
}


def _encoded(status: bytes, body: object) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data)


_KNOWN: Final = {path: _encoded(b"200 OK", body) for path, body in _ANSWERS.items()}
_UNKNOWN: Final = _encoded(
    b"404 Not Found", {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}
)


class Answers(asyncio.Protocol):
    """One connection of the API process."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete, a while later."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            path = self._data.split(b" ", 2)[1].partition(b"?")[0]
            self._data = self._data[end + 4 + length :]
            answer = _KNOWN.get(path, _UNKNOWN)
            asyncio.get_running_loop().call_later(_TAKES, self._transport.write, answer)


async def main() -> None:
    """Serve until a signal."""
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
