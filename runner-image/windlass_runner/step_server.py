"""Durable steps over HTTP, for programs of any language: served on the pod's loopback interface only.

``GET /steps/NAME`` answers 200 with the saved value, or 404 ``StepNotSaved``: run the step, then ``POST`` its value
there. Both calls may be repeated. Where nobody can tell what is saved, the attempt is ended: a program that takes every
failed GET for "not saved" must not run a step again whose value is saved. The query string holds the step's arguments:
a saved value is given out only for the arguments that it belongs to. The address is the credential: it holds a random
word, so that a program which fetches whatever address it is given cannot be made to write steps. The attempt's token is
added here.
"""

import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from windlass import protocol
from windlass.checkpoints import Checkpoints, Running
from windlass.errors import AttemptClosedError, ProtocolError, SerializationError, ValueTooLargeError
from windlass.serialization import encode
from windlass.transport import Transport
from windlass_runner.results import VALUE_LIMIT, checked

_LONGEST_NAME: Final = 200
_LONGEST_MESSAGE: Final = 4096
_UNTIL_KILLED: Final = 60.0

Refuse = Callable[[AttemptClosedError | protocol.Failure], None]


class Problem(Exception):  # noqa: N818 - an answer
    """What a call is answered instead of success."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = protocol.ErrorBody(code=code, message=message)


class StepServer:
    """The steps of one attempt.

    Args:
        attempt: What was claimed.
        transport: To the API, with the attempt's token.
        refuse: Called when nothing that the program does may count any more: the attempt is closed, or diverged.

    Attributes:
        url: What the program gets as ``WINDLASS_URL``.
    """

    def __init__(self, attempt: protocol.ClaimedAttempt, transport: Transport, refuse: Refuse) -> None:
        self._checkpoints = Checkpoints(attempt, transport)
        self._tell = refuse
        self._saved: dict[str, protocol.Step] = {}
        """Steps that were given out or saved: a program may ask for one again."""
        self._open: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._finding = threading.Lock()
        self._word = os.urandom(16).hex()
        server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{server.server_port}/{self._word}"
        threading.Thread(target=server.serve_forever, name="steps", daemon=True).start()

    def knows(self, word: str) -> bool:
        """Return whether a path begins as our address does."""
        return hmac.compare_digest(word.encode(), self._word.encode())

    def get(self, name: str, query: str) -> bytes:
        """Return a step's saved value.

        Raises:
            Problem: 404 when the step is to be run, which has begun with this call; 409 when it diverges.
        """
        hashed = hash_query(query)
        saved = self._find(name)
        if saved is not None:
            self._same_arguments(name, saved.args_hash, hashed)
            return self._checkpoints.value_of(saved)
        with self._lock:
            running = self._open.get(name)
            if running is None:
                running = self._open[name] = Running(name, name, hashed)
                self._checkpoints.begin(running)
        self._same_arguments(name, running.args_hash, hashed)
        raise Problem(404, "StepNotSaved", f"Step {name!r} has no saved value. Run it, then POST its value here.")

    def save(self, name: str, query: str, value: bytes) -> None:
        """Save a step's value; it is durable when this returns.

        Raises:
            Problem: It is no JSON, or the step was saved with another value, or its arguments are others.
        """
        try:
            value = checked(value or b"null", f"value of step {name!r}")
        except SerializationError as error:
            raise Problem(422, "ResultNotSerializable", str(error)) from None
        with self._saving:
            saved = self._find(name)
            if saved is not None:
                if query:
                    self._same_arguments(name, saved.args_hash, hash_query(query))
                if self._checkpoints.value_of(saved) != value:
                    message = f"Step {name!r} is saved with another value. Give each step of a run a name of its own."
                    raise Problem(409, "StepAlreadySaved", message)
                return
            running = self._take(name, query)
            try:
                self._saved[name] = self._checkpoints.finish(running, value)
            except ValueTooLargeError as error:
                raise Problem(413, "ResultTooLarge", str(error)) from None

    def fail(self, name: str, query: str, message: str) -> None:
        """Record that a step has failed. It runs again with the next attempt."""
        failure = protocol.Failure(type="StepFailed", message=message[:_LONGEST_MESSAGE], step=name)
        with self._saving:
            if self._find(name) is not None:
                raise Problem(409, "StepAlreadySaved", f"Step {name!r} has succeeded and is saved.")
            self._checkpoints.fail(self._take(name, query), failure)

    def _find(self, name: str) -> protocol.Step | None:
        with self._finding:  # history gives a step out once: of two calls for it the second would be told to run it
            found = self._saved.get(name) or self._checkpoints.find(name)
            if found is not None:
                self._saved[name] = found
            return found

    def _take(self, name: str, query: str) -> Running:
        with self._lock:
            running = self._open.get(name) or Running(name, name, hash_query(query))
        if query:
            self._same_arguments(name, running.args_hash, hash_query(query))
        with self._lock:
            self._open.pop(name, None)
        return running

    def _same_arguments(self, name: str, then: str, now: str) -> None:
        if then == now:
            return
        message = (
            f"Step {name!r} was begun with other arguments (then {then}, now {now}): the program or its inputs changed "
            "since. A step must get the same arguments in every attempt, and each step of a run a name of its own."
        )
        reason = "Divergence"
        self._refuse(
            protocol.Failure(type=reason, message=message, failure_class="permanent", reason=reason, step=name)
        )
        raise Problem(409, reason, message)

    def _refuse(self, why: AttemptClosedError | protocol.Failure) -> None:
        """Let the program be killed, and give it no answer: it could act on it before it is gone."""
        self._tell(why)
        time.sleep(_UNTIL_KILLED)

    def closed(self, error: AttemptClosedError) -> None:
        """Note that the API has closed the attempt."""
        self._refuse(error)

    def broken(self, error: ProtocolError) -> None:
        """End the attempt: the API did not do what was asked, so nobody knows what is saved."""
        self._refuse(protocol.Failure(type=error.code, message=f"A step could not be read or saved. {error}"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        steps = self

        class Handler(_Handler):
            server_steps = steps

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # many steps may come at once

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a program that was killed while it waited for its answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of the program's."""

    server_steps: StepServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _get(self) -> tuple[int, bytes]:
        name, action, query = self._target()
        if action:
            raise Problem(400, "InvalidRequest", "POST the message of the failure here.")
        return 200, self.server_steps.get(name, query)

    def _post(self) -> tuple[int, bytes]:
        body = self._body()
        name, action, query = self._target()
        if action:
            self.server_steps.fail(name, query, body.decode(errors="replace"))
        else:
            self.server_steps.save(name, query, body)
        return 204, b""

    def _serve(self, answer: Callable[[], tuple[int, bytes]]) -> None:
        try:
            status, body = answer()
        except Problem as problem:
            status, body = problem.status, msgspec.json.encode(problem.body)
        except AttemptClosedError as error:
            self.server_steps.closed(error)
            status, body = 409, msgspec.json.encode(protocol.ErrorBody(code=protocol.AttemptClosed, message=str(error)))
        except ProtocolError as error:
            self.server_steps.broken(error)
            status, body = 502, msgspec.json.encode(protocol.ErrorBody(code=error.code, message=str(error)))
        self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _target(self) -> tuple[str, str, str]:
        """Return the step's name, what is asked of it ('' or 'failure'), and its arguments.

        A wrong path is 400 and not 404, which says "run it".
        """
        parts = urlsplit(self.path)
        word, _, rest = parts.path.lstrip("/").partition("/")
        if not self.server_steps.knows(word):
            raise Problem(403, "Forbidden", "Call the address in WINDLASS_URL, with its path.")
        root, _, rest = rest.partition("/")
        name, _, action = rest.partition("/")
        name = unquote(name)
        if root != "steps" or action not in ("", "failure"):
            raise Problem(400, "InvalidRequest", "There are /steps/NAME and /steps/NAME/failure.")
        if not name or len(name) > _LONGEST_NAME or any(c in "/#" or c < " " or c == "\ufffd" for c in name):
            message = f"{name[:50]!r} cannot be a step's name: use 1 to 200 characters without '/' and '#'."
            raise Problem(400, "InvalidRequest", message)
        return name, action, parts.query

    def _body(self) -> bytes:
        size = self.headers.get("Content-Length", "0" if "Transfer-Encoding" not in self.headers else "")
        self.close_connection = True  # until the body is read: a next request must not begin in its middle
        if not size.isdecimal():
            raise Problem(411, "InvalidRequest", "Send a Content-Length.")
        if int(size) > VALUE_LIMIT:
            message = f"The value has {size} bytes; the limit is {VALUE_LIMIT}. Store it elsewhere and save its place."
            raise Problem(413, "ResultTooLarge", message)
        body = self.rfile.read(int(size))
        if len(body) < int(size):
            raise Problem(400, "InvalidRequest", "The body is shorter than its Content-Length.")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base class' names
        """Answer what the base class refuses in the form of all our answers."""
        self.close_connection = True
        if code == 501:  # its word for a method without a function
            found = protocol.ErrorBody(code="MethodNotAllowed", message="There are GET and POST.")
            self._answer(405, msgspec.json.encode(found))
        else:
            found = protocol.ErrorBody(code="InvalidRequest", message=f"The request cannot be read: {message or code}.")
            self._answer(code, msgspec.json.encode(found))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Say nothing: what the container prints is the user's log."""


def hash_query(query: str) -> str:
    """Return the hash of a query string's arguments, whatever their order: as of a Python step with these arguments."""
    digest = hashlib.sha256()
    for name, value in sorted(parse_qsl(query, keep_blank_values=True, errors="backslashreplace")):
        digest.update(name.encode() + b"\0" + encode(value, what="argument") + b"\0")
    return digest.hexdigest()[:16]
