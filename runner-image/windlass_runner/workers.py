"""The worker processes of a pod that runs in-process: one that takes new attempts, and perhaps some before it.

A worker is retired when it has had as many attempts as it may, or when code in it does not end that should: it takes
nothing new, finishes what it has, and ends.
"""

import contextlib
import os
import signal
import time
from typing import Final

from windlass import protocol
from windlass_runner import outcome
from windlass_runner.config import user_environment
from windlass_runner.in_process_slot import InProcessSlot
from windlass_runner.main import say
from windlass_runner.offspring import adopt_orphans, kill_strangers, show_output
from windlass_runner.shared import Shared
from windlass_runner.slot import Slot
from windlass_runner.worker_channel import ENDED, IMPORTING, PING, PONG, READY
from windlass_runner.worker_process import Worker

_MOST_STILLBORN: Final = 3
_LISTEN: Final = 5.0
"""Seconds between two questions whether a worker still hears us, while it has attempts."""
_SILENT: Final = 2.0
"""Seconds without an answer after which it gets no more attempts: code stops its event loop."""
_UNSENT: Final = 0.005
"""Seconds between two tries to send what did not fit."""


class Workers:
    """Runs attempts in worker processes.

    Args:
        shared: What the runner has.
        first: The worker that was started with the pod.
        slots: Attempts at once.

    Attributes:
        broken: Workers end before they are ready, one after the other: there is no use in going on.
    """

    def __init__(self, shared: Shared, first: Worker, slots: int) -> None:
        self._shared = shared
        self._slots = slots
        self._limit = shared.config.max_runs_per_process
        self._old: list[Worker] = []
        self._next: Worker | None = None
        self._stillborn = 0
        self._pinged: dict[Worker, float] = {}
        self._heard: dict[Worker, float] = {}
        self.broken = False
        adopt_orphans()
        signal.signal(signal.SIGCHLD, lambda *_: shared.loop.post(self.reap))
        self._current = first
        self._serve_with(first)

    def slot(self, attempt: protocol.ClaimedAttempt, claimed_at: float) -> InProcessSlot:
        """Return the slot of an attempt, to be started."""
        if self._limit and self._current.begun >= self._limit:
            self._retire(self._current)
        elif self._limit and self._current.begun >= self._limit - self._slots and self._next is None:
            self._next = self._another()  # ahead: a process takes a while to be ready
        return InProcessSlot(self._shared, self._current, attempt, claimed_at=claimed_at)

    def release(self, slot: Slot) -> None:
        """Note that an attempt has ended."""

    @property
    def takes_more(self) -> bool:
        """Whether a new attempt would begin soon: code that stops the event loop holds up all others."""
        pinged = self._pinged.get(self._current)
        return pinged is None or time.monotonic() - pinged < _SILENT

    def check(self, now: float) -> float:
        """Do what is due; return when to look again."""
        due = now + _LISTEN
        for worker in [self._current, *self._old]:
            if worker.send_what_fits():
                due = now + _UNSENT
            given_up = [slot.given_up_at for slot in worker.present.values() if slot.given_up_at is not None]
            if worker is not self._current and len(given_up) == len(worker.present):
                self._end(worker)
                continue
            if worker.present:
                due = min(due, self._listen(worker, now))
            for at in given_up:
                due = min(due, at) if at > now else due
                if at <= now and worker is self._current:
                    say("code that was asked to end goes on; its process gets no more runs and ends with the others.")
                    self._retire(worker)
        return due

    def _listen(self, worker: Worker, now: float) -> float:
        """See whether a worker hears us; return when to look again."""
        pinged = self._pinged.get(worker)
        if pinged is None:
            heard = self._heard.setdefault(worker, now)
            if now < heard + _LISTEN:
                return heard + _LISTEN
            self._pinged[worker] = now
            worker.send(PING)
            return now + _SILENT
        if worker is not self._current and now - pinged >= self._shared.config.grace:
            say("code stops the event loop of a process that is to end; its runs are handed back.")
            worker.ended_by_us = True
            worker.kill()
            self._pinged[worker] = now
        return now + _SILENT

    def _end(self, worker: Worker) -> None:
        """Let a retired worker end, or end it: nobody waits for anything in it."""
        self._old.remove(worker)
        if worker.present:
            worker.kill()
        self._forget(worker)

    def _another(self) -> Worker:
        worker = Worker(user_environment(os.environ))
        worker.preload(self._shared.config.preload)
        self._serve_with(worker)
        return worker

    def _retire(self, worker: Worker) -> None:
        """Serve new attempts with another one."""
        self._old.append(worker)
        self._renew()

    def _renew(self) -> None:
        self._current, self._next = self._next or self._another(), None

    def _serve_with(self, worker: Worker) -> None:
        self._shared.loop.watch(worker.socket.fileno(), lambda _: self._read(worker))
        show_output(self._shared, worker)

    def _read(self, worker: Worker) -> None:
        frames = worker.read()
        if frames is None:
            self._died(worker)
            return
        for kind, number, body in frames:
            if kind == READY:
                worker.ready = True
                self._stillborn = 0
            elif kind == PONG:
                self._pinged.pop(worker, None)
                self._heard[worker] = time.monotonic()
            elif kind == IMPORTING:
                worker.importing = number
            elif number in worker.present:
                if kind == ENDED:
                    worker.present.pop(number).finished(body)
                else:
                    worker.present[number].wrote(kind, body)

    def _forget(self, worker: Worker) -> None:
        self._shared.loop.unwatch(worker.socket.fileno())
        worker.close()
        self._pinged.pop(worker, None)
        self._heard.pop(worker, None)

    def _died(self, worker: Worker) -> None:
        code = worker.wait()
        self._forget(worker)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)  # what its code has started
        self._kill_strangers()
        if worker in self._old:
            self._old.remove(worker)
        elif worker is self._next:
            self._next = None
        else:
            self._stillborn += not worker.ready
            self.broken = self._stillborn >= _MOST_STILLBORN
            self._renew()
        self._charge(worker, code)

    def _charge(self, worker: Worker, code: int) -> None:
        """Decide what the end of a process means for each of its attempts."""
        before, after = self._shared.kills.take(killed=code == -signal.SIGKILL)
        running = {number: slot for number, slot in worker.present.items() if slot.given_up_at is None}
        for number, slot in running.items():
            used = slot.used
            if not worker.ready and not self.broken:  # it has not read any attempt
                slot.move_to(self._current)
            elif not worker.ready or worker.importing == number:
                slot.process_ended(outcome.zygote_died(code, before, after, used, imported=False))
            elif worker.ended_by_us or worker.importing:  # it is known that another one is to blame
                slot.process_ended(None)
            elif len(worker.present) == 1:
                slot.process_ended(outcome.crash(code, before, after, used))
            else:
                slot.process_ended(outcome.shared_crash(code, before, after, used, len(worker.present)))

    def reap(self) -> None:
        """Take note of all children of this process that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for worker in self._all():
                    if worker.pid == pid:
                        worker.status = status

    def _all(self) -> list[Worker]:
        return [self._current, *self._old, *([self._next] if self._next else [])]

    def _kill_strangers(self) -> None:
        """End what a process has left behind in sessions of its own: when it had ended, it became ours."""
        known = {worker.pid for worker in self._all()}
        kill_strangers(known)
