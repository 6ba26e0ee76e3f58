"""The threads that tell the API of ended attempts of a reusable pod, and bring what the same call has claimed."""

import queue
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from windlass import protocol
from windlass_runner.api import ApiClient
from windlass_runner.claimer import recover
from windlass_runner.config import Config
from windlass_runner.endings import Ending, Told, tell
from windlass_runner.log_sender import AttemptLog

_MOST_THREADS: Final = 8


class Report(NamedTuple):
    """The end of one attempt, and the claim that goes with it."""

    attempt: protocol.ClaimedAttempt
    log: AttemptLog
    ending: Ending
    claim: protocol.NextClaim | None


class Reporter:
    """Sends reports, each by one of a few threads with kept connections.

    Args:
        config: Of the pod.
        session: What this pod claims with.
        slots: Reports that there can be at once.
        reported: Called in a thread of ours with each report and what the API said.
    """

    def __init__(self, config: Config, session: str, slots: int, reported: Callable[[Report, Told], None]) -> None:
        self._config = config
        self._session = session
        self._most = min(slots, _MOST_THREADS)
        self._reported = reported
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._threads = 0
        self._open = 0
        self._lock = threading.Lock()

    def send(self, report: Report) -> None:
        """Send a report soon. Does not wait."""
        self._reports.put(report)
        with self._lock:
            self._open += 1
            another = self._open > self._threads < self._most
            self._threads += another
        if another:
            threading.Thread(target=self._run, name="reports", daemon=True).start()

    def _run(self) -> None:
        api = ApiClient(self._config.url)
        while True:
            report = self._reports.get()
            told = tell(
                api,
                report.attempt.token,
                report.log,
                report.ending,
                self._config.report_patience,
                report.claim,
            )
            if report.claim is not None and told.repeated and not (told.outcome and told.outcome.attempts):
                told = self._recover(api, report.claim, told)
            with self._lock:
                self._open -= 1
            self._reported(report, told)

    def _recover(self, api: ApiClient, claim: protocol.NextClaim, told: Told) -> Told:
        """Ask again for what the claim took."""
        answer = recover(api, self._config, self._session, claim)
        outcome = told.outcome or protocol.Outcome(state="")
        outcome.attempts, outcome.leave = answer.attempts, outcome.leave or answer.leave
        return told._replace(outcome=outcome)
