"""The zygotes of a reusable pod: one that serves new attempts, and perhaps some before it whose attempts still run.

A zygote may die: a module ends its process while it is imported, or the kernel does. Its children live on. They are
ours from then on, because we adopt what has lost its parent, and a new zygote serves what comes.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Any, Final, cast

from windlass import protocol
from windlass_runner.config import user_environment
from windlass_runner.offspring import adopt_orphans, kill_strangers, show_output
from windlass_runner.pooled_slot import PooledSlot
from windlass_runner.shared import Shared
from windlass_runner.slot import UNKNOWN_EXIT, Slot
from windlass_runner.spares import Spares
from windlass_runner.spawned import kill_group
from windlass_runner.zygote_process import Zygote

_MOST_STILLBORN: Final = 3
_LOOK: Final = 5.0


class Zygotes:
    """Starts children and hears of their ends.

    Args:
        shared: What the runner has.
        first: The zygote that was started with the pod.
        running: The attempts that run, by id. The runner's own; changed by it.
        slots: Attempts at once.

    Attributes:
        current: Serves new attempts.
        broken: Zygotes end before they are ready, one after the other: there is no use in going on.
    """

    def __init__(self, shared: Shared, first: Zygote, running: Mapping[str, Slot], slots: int) -> None:
        self._shared = shared
        self._running = cast("Mapping[str, PooledSlot]", running)  # we have made each of them
        self._slots = slots
        self._threaded: set[str] = set()
        """Modules that start threads when they are imported: none of our zygotes imports them again."""
        self._old: list[Zygote] = []
        self._stillborn = 0
        self.broken = False
        adopt_orphans()
        signal.signal(signal.SIGCHLD, lambda *_: shared.loop.post(self.reap))
        self.current = first
        self._serve_with(first)

    @property
    def takes_more(self) -> bool:
        """Whether a new attempt would begin soon."""
        return True

    def slot(self, attempt: protocol.ClaimedAttempt, claimed_at: float) -> PooledSlot:
        """Return the slot of an attempt, to be started."""
        return PooledSlot(self._shared, self.current, attempt, claimed_at=claimed_at)

    def check(self, now: float) -> float:
        """Let children be forked that are missing; return the monotonic time at which to look again."""
        spares = self.current.spares
        if spares is None or not self.current.ready:
            return now + _LOOK
        missing, again = spares.missing(now, self._slots, len(self._running))
        if missing:
            self.current.fork_ahead(missing)
        return min(again, now + _LOOK)

    def _renew(self) -> None:
        zygote = Zygote(user_environment(os.environ))
        zygote.preload(self._shared.config.preload)
        self.current = zygote
        self._serve_with(zygote)

    def _serve_with(self, zygote: Zygote) -> None:
        zygote.fresh = self._threaded
        zygote.spares = Spares()
        zygote.warm()
        self._shared.loop.watch(zygote.socket.fileno(), lambda _: self._read(zygote))
        show_output(self._shared, zygote)

    def _read(self, zygote: Zygote) -> None:
        messages = zygote.read()
        if messages is None:
            self._died(zygote)
        for message in messages or ():
            if "threads" in message:
                self._retire(zygote, message["threads"])
            elif "id" in message:
                self._pass_on(zygote, message)
            else:
                self._stillborn = 0

    def _pass_on(self, zygote: Zygote, message: dict[str, Any]) -> None:
        slot = self._running.get(message["id"])
        if slot is not None and slot.starter is zygote:
            if "exit" in message and slot.never_began():
                slot.begin_again(self.current)
            else:
                slot.told(message)
        elif "pid" in message:
            kill_group(message["pid"])  # it was given up before it began
        if "exit" in message:
            self._kill_strangers()

    def _retire(self, zygote: Zygote, module: str) -> None:
        """Serve with another zygote from now on: one that has threads can fork no more."""
        self._threaded.add(module)
        if zygote is self.current:
            self._old.append(zygote)
            if zygote.spares is not None:
                zygote.spares.dismiss()
            self._renew()

    def release(self, slot: Slot) -> None:
        """Note that an attempt has ended; a retired zygote ends with the last of its own."""
        zygote = slot.starter
        if zygote in self._old and all(other.starter is not zygote for other in self._running.values()):
            self._old.remove(zygote)
            self._forget(zygote)

    def _forget(self, zygote: Zygote) -> None:
        self._shared.loop.unwatch(zygote.socket.fileno())
        zygote.close()

    def _died(self, zygote: Zygote) -> None:
        zygote.wait()
        if zygote in self._old:
            self._old.remove(zygote)
        self.reap()
        mine = [slot for slot in self._running.values() if slot.starter is zygote and not slot.ended]
        began = any(zygote.has_taken(slot.attempt.attempt_id) for slot in mine)
        waiting = []
        for slot in mine:
            if slot.pid is not None:
                if not _is_our_child(slot.pid):  # it had ended before, and nobody is left who knows how
                    waiting += [slot] * slot.never_began()
                    slot.exited(UNKNOWN_EXIT)
            elif zygote.has_taken(slot.attempt.attempt_id):
                slot.starter_ended()
            else:  # it waited behind another, and is begun elsewhere
                waiting.append(slot)
        self._forget(zygote)
        self._kill_strangers()
        if zygote is self.current:
            self._stillborn += not (zygote.ready or began)
            self.broken = self._stillborn >= _MOST_STILLBORN
            self._renew()
        for slot in waiting:
            slot.begin_again(self.current)

    def reap(self) -> None:
        """Take note of all children of this process that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                for zygote in (self.current, *self._old):
                    if zygote.pid == pid:
                        zygote.status = status
                for slot in self._running.values():
                    if slot.pid == pid and not slot.ended:
                        if slot.never_began():
                            slot.begin_again(self.current)
                        else:
                            slot.exited(status)

    def _kill_strangers(self) -> None:
        """End what attempts have left behind in sessions of its own: when its child had ended, it became ours."""
        known = {self.current.pid, *(zygote.pid for zygote in self._old)}
        known |= {slot.pid for slot in self._running.values() if slot.pid is not None}
        kill_strangers(known)


def _is_our_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
