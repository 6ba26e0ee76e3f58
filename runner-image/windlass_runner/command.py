"""The watch over a container task's attempt: the same loop as for a child, with the shim in the zygote's place."""

import errno
import os
import signal
import time
from collections import deque
from typing import Any, Final, cast

import msgspec

from windlass import protocol
from windlass.errors import AttemptClosedError, ProtocolError, ValueTooLargeError
from windlass.transport import HttpTransport
from windlass_runner import exit_codes, outcome
from windlass_runner.endings import Ending
from windlass_runner.memory import Container, Sessions
from windlass_runner.results import read_result
from windlass_runner.shared import Shared
from windlass_runner.shim import Shim
from windlass_runner.slot import Slot
from windlass_runner.step_server import StepServer
from windlass_runner.supervisor import report, watch

_LAST_LINES: Final = 10
_LAST_CHARACTERS: Final = 800
"""Of the last lines in a failure's message: the message of a run holds 1,024."""


def run_command(shared: Shared, shim: Shim, attempt: protocol.ClaimedAttempt, *, folder: str, claimed_at: float) -> int:
    """Run the command to its end and return the exit code for the main container."""
    slot = CommandSlot(shared, shim, attempt, folder=folder, claimed_at=claimed_at)
    if not shim.catch_up() or shim.stopping or shared.stopping:  # it must end before anything ran
        return report(shared, slot, Ending("/release", protocol.ReleaseRequest(reason="PodTerminated")))
    return watch(shared, shim, shim.socket.fileno(), slot)


class CommandSlot(Slot):
    """One attempt of a container task.

    Args:
        shared: What the runner has.
        shim: In the main container, ready.
        attempt: What was claimed.
        folder: That both containers mount.
        claimed_at: Monotonic time of the claim.
    """

    def __init__(
        self, shared: Shared, shim: Shim, attempt: protocol.ClaimedAttempt, *, folder: str, claimed_at: float
    ) -> None:
        # The shim starts code and tells of its end like a zygote; what else a zygote has, only what we replace uses.
        super().__init__(shared, cast("Any", shim), attempt, claimed_at=claimed_at)
        url = shared.config.url
        self._shim = shim
        self._folder = folder
        self._transport = HttpTransport(url, attempt.token)
        self._steps = StepServer(attempt, HttpTransport(url, attempt.token), self._step_refused)
        self._verdict: protocol.Failure | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._finish: dict[str, Any] = {}

    def start(self) -> None:
        """Let the command be started."""
        payload = bytes(self.attempt.payload) or b"null"
        if self.attempt.payload_ref is not None:
            payload = self._transport.get_blob(self.attempt.payload_ref)
        path = f"{self._folder}/payload.json"
        with open(path, "wb") as file:  # noqa: PTH123 - pathlib would cost milliseconds of every start
            file.write(payload)
        os.chmod(path, 0o644)  # noqa: PTH101 - the main container may run as any user
        self._shim.set_environment(self._environment())
        self._open_pipes(b"", 2)

    def _environment(self) -> dict[str, str]:
        env = {
            "WINDLASS_URL": self._steps.url,
            "WINDLASS_PAYLOAD_FILE": f"{self._folder}/payload.json",
            "WINDLASS_RESULT_FILE": f"{self._folder}/result.json",
            "WINDLASS_RUN_ID": self.attempt.run_id,
            "WINDLASS_TASK": self.attempt.task,
            "WINDLASS_NAMESPACE": self.attempt.namespace,
            "WINDLASS_ATTEMPT": str(self.attempt.number),
        }
        if self.attempt.traceparent:
            env["TRACEPARENT"] = self.attempt.traceparent
        return env

    def _line(self, stream: protocol.LogStream, text: str) -> None:
        self._last.append(self.log.redact(text))
        super()._line(stream, text)

    def told(self, message: dict[str, Any]) -> None:
        """Take in what the shim says."""
        if "stop" in message:
            self._stopping.append(time.monotonic())
        elif "refused" in message:
            self._verdict = _permanent("CommandNotStarted", f"The command cannot be started: {message['refused']}.")
            self._exit = 0
        elif "exit" in message:
            self._finish = message
            self._exit = message["exit"]  # the shim has ended what the command left behind

    def _step_refused(self, why: AttemptClosedError | protocol.Failure) -> None:
        """Called by a thread of the step server: nothing that the command does now may count."""
        if isinstance(why, protocol.Failure):
            self._verdict = why
        self.heard(protocol.BeatAnswer(open=False))

    def obey(self, answer: protocol.BeatAnswer) -> None:
        """Do what an answer to a heartbeat asks for."""
        if not answer.open and self._verdict is not None:
            self._why = self._why or "refused"
            self._signal(signal.SIGKILL)
        else:
            super().obey(answer)

    def _ask_to_pause(self) -> None:
        """Nothing: a command has its container's own SIGTERM."""

    def _ask_to_stop(self) -> None:
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:  # noqa: ARG002 - always the group
        if self._exit is None:
            self._shim.signal(number)

    def memory(self, sessions: Sessions) -> int | None:  # noqa: ARG002 - the shim tells
        """Return the bytes that the command uses."""
        self._used = self._shim.memory or self._used
        return self._used

    def ending(self) -> Ending:
        """Return what came of the attempt."""
        if self._starter_gone and self._exit is None and self._why is None and not self._shim.stopping:
            # The main container is gone, and with it every process in it. Why, only its status tells: the operator, who
            # reads that, closes the attempt. A SIGTERM of our own says nothing: it comes when that container has ended.
            return Ending(code=exit_codes.API_UNREACHABLE)
        return super().ending()

    def _outcome(self, result: outcome.Result | None) -> tuple[str, Any] | None:  # noqa: ARG002 - it has a file
        if self._verdict is not None:
            return "/fail", protocol.FailRequest(failure=self._verdict)
        # A command that had ended before our signal reached it has ended by itself, whatever we wanted of it since.
        if self._exit is None or self._finish.get("signalled"):
            told = self._ended_by_us()
            if told is not None:
                return told
        if self._exit is not None and os.waitstatus_to_exitcode(self._exit) == 0:
            return self._success()
        return "/fail", protocol.FailRequest(failure=self._crash())

    def _success(self) -> tuple[str, Any] | None:
        found = read_result(self._finish.get("result"), self._finish.get("errno", errno.ENOENT))
        if isinstance(found, protocol.Failure):
            return "/fail", protocol.FailRequest(failure=found)
        if len(found) <= protocol.INLINE_LIMIT:
            return "/complete", protocol.CompleteRequest(result=msgspec.Raw(found))
        try:
            return "/complete", protocol.CompleteRequest(result_ref=self._transport.put_blob(found))
        except AttemptClosedError:
            return None
        except (ProtocolError, ValueTooLargeError) as error:
            return "/fail", protocol.FailRequest(failure=_permanent("ResultTooLarge", str(error)))

    def _crash(self) -> protocol.Failure:
        code = os.waitstatus_to_exitcode(self._exit or 0)
        container: Container = self._finish.get("memory", Container())
        # 137: a shell whose own child was killed says so with this code.
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL) and container.kills > 0:
            return outcome.out_of_memory(container, self._used)
        how = f"exited with code {code}" if code >= 0 else f"was ended by {outcome.signal_name(-code)}"
        last = "\n".join(self._last)[-_LAST_CHARACTERS:]
        message = f"The command {how}." + (f" Its last lines:\n{last}" if last else " It printed nothing.")
        return protocol.Failure(type="CommandFailed", message=message)


def _permanent(reason: str, message: str) -> protocol.Failure:
    return protocol.Failure(type=reason, message=message, failure_class="permanent", reason=reason)
