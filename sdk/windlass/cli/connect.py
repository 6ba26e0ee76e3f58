"""Reaching the API from a person's machine: by the environment, else with what kubectl already knows."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from windlass.cli.output import tell
from windlass.client import Client
from windlass.errors import ApiError

if TYPE_CHECKING:
    import subprocess

SYSTEM_NAMESPACE: Final = "windlass-system"
_ANSWER: Final = 30.0
"""Seconds that one call may take where ``--timeout`` does not say otherwise."""
_NO_KUBECTL: Final = "Set WINDLASS_URL and WINDLASS_TOKEN, or install kubectl: the address is not known without."


@dataclass
class Access:
    """Which API, as whom, for how long.

    An explicit context wins over the environment: a person who names a cluster must not reach another one because a
    variable was left over.

    Attributes:
        namespace: As given; None takes it from environment or context.
        service_account: Whose token kubectl is asked for.
        context: Of kubectl.
        kubeconfig: Of kubectl; its own ``KUBECONFIG`` by default.
        timeout: How long the command may take.
    """

    namespace: str | None = None
    service_account: str = "default"
    context: str | None = None
    kubeconfig: str | None = None
    timeout: timedelta | None = None
    _local: str | None = field(default=None, repr=False)
    _looked: bool = field(default=False, repr=False)
    _forward: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    @property
    def by_environment(self) -> bool:
        """Whether the address comes from ``WINDLASS_URL``."""
        return bool(os.environ.get("WINDLASS_URL")) and not self.context

    @property
    def asks_kubectl_for_token(self) -> bool:
        """Whether the environment has no token that belongs to this cluster."""
        given = os.environ.get("WINDLASS_TOKEN") or os.environ.get("WINDLASS_TOKEN_FILE")
        return bool(self.context) or not given

    @property
    def local(self) -> str | None:
        """Address of the ``windlass dev`` that runs in this folder or one above; None where nothing else is meant."""
        if self.context or self.kubeconfig or os.environ.get("WINDLASS_URL"):
            return None
        if not self._looked:
            self._looked, self._local = True, _running_here()
        return self._local

    @property
    def system_namespace(self) -> str:
        """Where the control plane runs."""
        return os.environ.get("WINDLASS_SYSTEM_NAMESPACE", SYSTEM_NAMESPACE)

    def client(self) -> Client:
        """Return a client.

        What the environment does not say is asked of kubectl: a port-forward to the Service ``windlass-api``, ended
        with the command, and a token of a service account of the namespace.

        Raises:
            ApiError: Neither way works; the text says what to set.
        """
        if self.local is not None:
            return self._local_client(self.local)
        self.namespace = self.namespace or self._default_namespace()
        url = os.environ["WINDLASS_URL"] if self.by_environment else self._start_forward()
        token = self.make_token() if self.asks_kubectl_for_token else None
        url = url or self._forwarded_url()
        client = Client(url, token, self.namespace)
        client.timeout = self.timeout.total_seconds() if self.timeout else _ANSWER
        return client

    def _local_client(self, url: str) -> Client:
        if sys.stderr.isatty():
            tell(f"(windlass dev at {url})")
        self.namespace = self.namespace or os.environ.get("WINDLASS_NAMESPACE") or "default"
        # One that asks for a token was given it by this person; the others take any.
        given = os.environ.get("WINDLASS_DEV_TOKEN") or os.environ.get("WINDLASS_TOKEN") or "local"
        client = Client(url, given, self.namespace)
        client.timeout = self.timeout.total_seconds() if self.timeout else _ANSWER
        return client

    def mend(self, client: Client, error: ApiError) -> None:
        """Renew what may have ended while a command went on: the port-forward, and the token that kubectl made.

        Raises:
            ApiError: kubectl does not help either.
        """
        if self._forward is not None and self._forward.poll() is not None:
            self._start_forward()
            client.url = self._forwarded_url()
        if error.status == 401 and self.local is None and self.asks_kubectl_for_token:
            client.use_token(self.make_token())

    def make_token(self) -> str:
        """Ask kubectl for a token for the API."""
        namespace = self.namespace or self._default_namespace()
        return self.kubectl("create", "token", self.service_account, "--audience=windlass", "-n", namespace).strip()

    def flags(self) -> str:
        """Return the flags with which the same command reaches the same place, for hints."""
        flags = f" -n {self.namespace}" if self.namespace else ""
        return flags + (f" --context {self.context}" if self.context else "")

    def kubectl(self, *arguments: str, patience: float | None = None, stdin: str | None = None) -> str:
        """Run kubectl and return what it printed.

        Args:
            arguments: Without the flags that choose the cluster.
            patience: Seconds to wait; by default what ``--timeout`` says, else 30.
            stdin: What it reads.

        Raises:
            ApiError: It failed; the text is its last line.
        """
        import subprocess

        wait = patience or (self.timeout.total_seconds() if self.timeout else _ANSWER)
        try:
            done = subprocess.run(
                [*self._kubectl(), *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=wait
            )
        except subprocess.TimeoutExpired:
            raise ApiError(
                "NotConfigured",
                f"kubectl {' '.join(arguments[:3])} did not answer within {wait:g} s.",
                hint="Is the cluster of this context up? `kubectl cluster-info` tells.",
            ) from None
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ApiError("NotConfigured", f"kubectl {' '.join(arguments[:3])} failed: {said[0]}")
        return done.stdout

    def _kubectl(self) -> list[str]:
        found = shutil.which("kubectl")
        if found is None:
            raise ApiError("NotConfigured", _NO_KUBECTL)
        flags = ["--context", self.context] if self.context else []
        return [found, *flags, *(["--kubeconfig", self.kubeconfig] if self.kubeconfig else [])]

    def _default_namespace(self) -> str:
        named = None if self.context else os.environ.get("WINDLASS_NAMESPACE")
        if named or shutil.which("kubectl") is None:
            return named or "default"
        return self.kubectl("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip() or "default"

    def _start_forward(self) -> str:
        """Start the port-forward; it finds its port while kubectl makes the token."""
        import atexit
        import subprocess

        self._forward = subprocess.Popen(
            [*self._kubectl(), "port-forward", "-n", self.system_namespace, "service/windlass-api", ":8080"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C reaches the whole group of the terminal; the forward must outlive it until we have said good-bye.
            start_new_session=True,
        )
        atexit.register(self._forward.terminate)
        return ""

    def _forwarded_url(self) -> str:
        import re
        import threading

        forward = self._forward
        assert forward is not None, "started before"
        assert forward.stdout is not None, "it is a pipe"
        assert forward.stderr is not None, "it is a pipe"
        wait = self.timeout.total_seconds() if self.timeout else _ANSWER
        timer = threading.Timer(wait, forward.kill)
        timer.start()
        try:
            line = forward.stdout.readline()
        finally:
            timer.cancel()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if found is None:
            said = (forward.stderr.read().strip() or line or f"no answer within {wait:g} s").splitlines()[-1]
            raise ApiError(
                "ApiUnreachable",
                f"kubectl port-forward to {self.system_namespace}/windlass-api failed: {said}",
                hint="`windlass doctor` looks for the cause. WINDLASS_URL and WINDLASS_TOKEN do without kubectl.",
            )
        return f"http://127.0.0.1:{found.group(1)}"


def _running_here() -> str | None:
    """Return the address in the note that a running ``windlass dev`` keeps in its state folder."""
    import fcntl
    import json
    from pathlib import Path

    here = Path.cwd()
    for folder in (here, *here.parents):
        state = folder / ".windlass"
        try:
            url = str(json.loads((state / "dev.json").read_text())["url"])
            with (state / "lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:  # it is held for as long as the process lives
                    return url
        except (OSError, ValueError, KeyError, TypeError):
            continue  # none, or one that was killed
    return None
