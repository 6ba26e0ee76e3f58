"""The control plane of the tests: a process of its own, one for a test session, that does as it is told."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
from typing import Any, Final

from windlass.testing.errors import TestingError

_PROGRAM: Final = "windlass_operator.local.rehearsing"
_MISSING: Final = "windlass.testing runs the real control plane, which is an extra: pip install 'windlass[dev]'"


class Plane:
    """The process, and the pipe to it.

    Attributes:
        url: Where attempts find the runtime API.
        pid: Of the process.

    Raises:
        TestingError: The extra is not installed, or the process does not start; the text has its last words.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("windlass_operator") is None:
            raise TestingError(_MISSING)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.pid = self._process.pid
        self._last_words: list[str] = []
        self._reader = threading.Thread(target=self._listen, name="windlass-testing-plane", daemon=True)
        self._reader.start()
        try:
            self.url: str = self._answer()["url"]
        except BaseException:
            self.close()
            raise

    def do(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out and return its answer.

        Raises:
            TestingError: It was refused; the text has the code.
        """
        with self._lock:
            assert self._process.stdin is not None, "it is a pipe"
            try:
                self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # its last words are in the answer that does not come
            return self._answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._reader.join(5)
            raise TestingError("The control plane of the tests has ended:\n" + "".join(self._last_words[-20:]))
        answer = json.loads(line)
        if "error" in answer:
            raise TestingError(f"{answer['error']['code']}: {answer['error']['message']}")
        return answer["ok"]

    def _listen(self) -> None:
        assert self._process.stderr is not None, "it is a pipe"
        for line in self._process.stderr:
            self._last_words.append(line.decode(errors="replace"))
            del self._last_words[:-200]
