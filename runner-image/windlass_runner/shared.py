"""What all attempts of one runner share."""

from windlass import protocol
from windlass_runner.config import Config
from windlass_runner.heartbeats import Heartbeats
from windlass_runner.log_sender import AttemptLog, LogSender
from windlass_runner.logs import Redactor
from windlass_runner.loop import Loop
from windlass_runner.memory import Kills


class Shared:
    """One loop, one thread of heartbeats, one sender of logs.

    Args:
        config: Of the pod.
        wake: Read and write end of the pipe that signals and threads write to.
        stopping: Filled with the monotonic time at which the pod was told to end.

    Attributes:
        secrets: Values that must not appear in logs, besides each attempt's token.
    """

    def __init__(self, config: Config, *, wake: tuple[int, int], stopping: list[float]) -> None:
        credential, _ = config.credential()
        self.config = config
        self.stopping = stopping
        self.secrets = [*config.secrets, credential]
        self.loop = Loop(wake)
        self.heartbeats = Heartbeats(config.url)
        self.logs = LogSender(config.url)
        self.kills = Kills()

    def log_of(self, attempt: protocol.ClaimedAttempt) -> AttemptLog:
        """Return the log of an attempt."""
        return self.logs.open(attempt.token, Redactor([*self.secrets, attempt.token]))
