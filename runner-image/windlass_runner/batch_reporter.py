"""Tells the API of ended attempts of runs that share a process: all that have ended meanwhile in one call.

The call asks for as many attempts as it frees slots for. What an attempt has logged goes before its end, in threads
that may wait for it; an end without lines waits for nobody.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from windlass import protocol
from windlass_runner import exit_codes
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.claimer import new_claim_id, recover
from windlass_runner.config import Config
from windlass_runner.endings import Told, tell
from windlass_runner.reporter import Report

_MOST_THREADS: Final = 8
_Answered = list[tuple[Report, Told]]


class BatchReporter:
    """One thread for ends, and some for logs, started when they are needed.

    Args:
        config: Of the pod.
        session: What this pod claims with.
        reported: Called in a thread of ours with reports and what the API said to each.
    """

    def __init__(self, config: Config, session: str, reported: Callable[[_Answered], None]) -> None:
        self._config = config
        self._session = session
        self._reported = reported
        self._ends: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._logs: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._threads = 0
        self._open = 0
        self._lock = threading.Lock()
        self._batches = True
        threading.Thread(target=self._run, name="ends", daemon=True).start()

    def send(self, report: Report) -> None:
        """Send a report soon. Does not wait."""
        if report.log.is_silent and report.ending.path in ("/complete", "/fail"):
            self._ends.put(report)
            return
        self._logs.put(report)
        with self._lock:
            self._open += 1
            another = self._open > self._threads < _MOST_THREADS
            self._threads += another
        if another:
            threading.Thread(target=self._run_logs, name="reports", daemon=True).start()

    def _run_logs(self) -> None:
        api = ApiClient(self._config.url)
        while True:
            report = self._logs.get()
            if report.ending.path in ("/complete", "/fail"):
                report.log.flush(api, report.ending.patience)
                self._ends.put(report)
            else:
                self._reported([(report, self._tell(api, report))])
            with self._lock:
                self._open -= 1

    def _run(self) -> None:
        api = ApiClient(self._config.url)
        while True:
            reports = [self._ends.get()]
            while len(reports) < protocol.MOST_ENDS and not self._ends.empty():
                reports.append(self._ends.get())
            self._reported(self._send(api, reports) if self._batches else [(r, self._tell(api, r)) for r in reports])

    def _send(self, api: ApiClient, reports: Sequence[Report]) -> _Answered:
        slots = sum(report.claim.slots for report in reports if report.claim is not None)
        claim = protocol.NextClaim(claim_id=new_claim_id(), slots=slots) if slots else None
        request = protocol.EndsRequest(ends=[_end(report) for report in reports], claim=claim)
        try:
            body = api.call("/ends", request, token=self._session, patience=self._config.report_patience)
            answer = msgspec.json.decode(body, type=protocol.EndsAnswer)
        except (Refused, msgspec.DecodeError) as error:
            # An API that is older than we are, or one that has forgotten the pod: each attempt has a token of its own.
            self._batches = not (isinstance(error, Refused) and error.status == 404)
            return [(report, self._tell(api, report)) for report in reports]
        except Unreachable as error:
            told = Told(exit_codes.API_UNREACHABLE, repeated=True, problem=str(error))
            return [(report, told) for report in reports]
        if claim is not None and api.repeated and not answer.attempts:
            again = recover(api, self._config, self._session, claim)
            answer.attempts, answer.leave = again.attempts, answer.leave or again.leave
        told_each = [self._told(api, report, end) for report, end in zip(reports, answer.ends, strict=True)]
        brought = protocol.Outcome(state="", attempts=answer.attempts, leave=answer.leave)
        told_each[0] = told_each[0]._replace(outcome=brought)
        return list(zip(reports, told_each, strict=True))

    def _told(self, api: ApiClient, report: Report, answer: protocol.EndAnswer) -> Told:
        if answer.error is None:
            return Told(exit_codes.DONE)
        if answer.error.code == protocol.AttemptClosed:
            return Told(exit_codes.LEASE_LOST)
        return self._tell(api, report._replace(claim=None))  # alone, where each answer has its meaning

    def _tell(self, api: ApiClient, report: Report) -> Told:
        patience = self._config.report_patience
        told = tell(api, report.attempt.token, report.log, report.ending, patience, report.claim)
        if report.claim is not None and told.repeated and not (told.outcome and told.outcome.attempts):
            again = recover(api, self._config, self._session, report.claim)
            outcome = told.outcome or protocol.Outcome(state="")
            outcome.attempts, outcome.leave = again.attempts, outcome.leave or again.leave
            told = told._replace(outcome=outcome)
        return told


def _end(report: Report) -> protocol.End:
    message = report.ending.message
    if report.ending.path == "/complete":
        return protocol.End(token=report.attempt.token, complete=message)
    return protocol.End(token=report.attempt.token, fail=message)
