"""A link between the operator and the API server that answers every call and lets no watch through.

It ends TLS with the API server's own key, so that it can tell a watch from a call; the operator's token goes on as it
came. A watch stays open and silent, as behind a firewall that has forgotten the connection.
"""

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from e2e.cluster.settings import API_PORT, NODE_IP, Settings
from e2e.support import SYSTEM, kubectl

_WATCH: Final = b"watch=true"
_OPERATOR: Final = "deploy/windlass-operator"


class DeafLink:
    """Passes everything on, until ``deaf`` is set: then whatever a watch would say is dropped.

    Attributes:
        deaf: Set and reset by the test.
        watches: Watches that are open.
        dropped: Bytes of watches that were dropped.
    """

    def __init__(self) -> None:
        pki = Settings.from_environment().pki
        self._inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._inward.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        self._onward = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._onward.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.deaf = False
        self.watches = 0
        self.dropped = 0
        self.port = 0

    async def serve(self) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connected, NODE_IP, 0, ssl=self._inward)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watch = asyncio.Event()
        try:
            up_reader, up_writer = await asyncio.open_connection(NODE_IP, API_PORT, ssl=self._onward)
        except OSError:
            writer.close()
            return
        asking = asyncio.create_task(self._ask(reader, up_writer, watch))
        answering = asyncio.create_task(self._answer(up_reader, writer, watch))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
            answering.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            self.watches -= watch.is_set()
            for end in (writer, up_writer):
                end.close()

    async def _ask(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter, watch: asyncio.Event) -> None:
        while chunk := await reader.read(1 << 16):
            if _WATCH in chunk and not watch.is_set():
                watch.set()
                self.watches += 1
            onward.write(chunk)
            await onward.drain()

    async def _answer(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, watch: asyncio.Event) -> None:
        missed = False
        while chunk := await reader.read(1 << 16):
            if watch.is_set() and self.deaf:
                self.dropped += len(chunk)
                missed = True
            elif missed:
                return  # what would follow is the rest of a line whose beginning was dropped
            else:
                back.write(chunk)
                await back.drain()


@contextmanager
def between_operator_and_api_server() -> Iterator[DeafLink]:
    """Let a new operator reach the API server by a link that can be made deaf; take it away again."""
    link, loop = DeafLink(), asyncio.new_event_loop()
    serving: asyncio.Task[Any] = loop.create_task(link.serve())
    thread = threading.Thread(target=_run, args=(loop, serving), daemon=True)
    thread.start()
    while not link.port:
        assert thread.is_alive(), "the link could not be opened"
        time.sleep(0.01)
    try:
        _restart(f"KUBERNETES_SERVICE_HOST={NODE_IP}", f"KUBERNETES_SERVICE_PORT={link.port}")
        until = time.monotonic() + 30
        while link.watches < 4:  # Tasks, Runs, Approvals, pods
            assert time.monotonic() < until, f"only {link.watches} watches"
            time.sleep(0.1)
        yield link
    finally:
        _restart("KUBERNETES_SERVICE_HOST-", "KUBERNETES_SERVICE_PORT-")
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(timeout=10)


def _run(loop: asyncio.AbstractEventLoop, serving: "asyncio.Task[Any]") -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(serving)
    others = asyncio.all_tasks(loop)
    for task in others:
        task.cancel()
    if others:
        loop.run_until_complete(asyncio.wait(others))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _restart(*variables: str) -> None:
    """Start a new operator with these variables and wait until it leads."""
    kubectl("set", "env", _OPERATOR, "-n", SYSTEM, "-c", "operator", *variables)
    kubectl("rollout", "status", _OPERATOR, "-n", SYSTEM, "--timeout=60s")
    wait_for_leader(among=operators())


def operators() -> dict[str, str]:
    """Return the UIDs of the operator's pods that are not on their way out, by name."""
    selector = "app.kubernetes.io/component=operator"
    found = json.loads(kubectl("get", "pods", "-n", SYSTEM, "-l", selector, "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found if not pod["metadata"].get("deletionTimestamp")
    }


def leader() -> str:
    """Return the pod that holds the Lease."""
    return kubectl("get", "lease", "windlass-operator", "-n", SYSTEM, "-o", "jsonpath={.spec.holderIdentity}")


def wait_for_leader(among: "dict[str, str] | set[str]", seconds: float = 40) -> str:
    """Wait until one of these pods leads and return which."""
    until = time.monotonic() + seconds
    while (found := leader()) not in among:
        assert time.monotonic() < until, f"{found!r} leads, none of {sorted(among)}"
        time.sleep(0.2)
    return found
