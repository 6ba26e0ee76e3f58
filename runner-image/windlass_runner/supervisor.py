"""Process 1's watch over the only attempt of a single-use pod, from its claim to its report.

Two threads stand beside the loop, each the only user of its own connection: heartbeats, which nothing may delay, and
the log sender, which may wait for the API. Everything they learn comes back to the loop through a pipe, so that only
the loop decides about the child.
"""

import os
import time
from typing import Any, Protocol

from windlass_runner.api import ApiClient
from windlass_runner.endings import LAST_FLUSH, Ending, tell
from windlass_runner.shared import Shared
from windlass_runner.slot import STREAMS, Slot
from windlass_runner.zygote_process import Zygote

_LONGEST_PAUSE = 60.0


class Teller(Protocol):
    """The end of a socket at which something tells of the attempt."""

    def read(self) -> list[dict[str, Any]] | None:
        """Return what was told; None when nothing more comes."""


def run_child(shared: Shared, zygote: Zygote, slot: Slot) -> int:
    """Run an attempt by a zygote that runs no other, and return the runner's exit code."""
    for read, stream in zip(zygote.outputs, STREAMS, strict=True):
        os.set_blocking(read, False)
        slot.add_stream(read, stream)
    return watch(shared, zygote, zygote.socket.fileno(), slot)


def watch(shared: Shared, teller: Teller, descriptor: int, slot: Slot) -> int:
    """Run an attempt to its end and return the runner's exit code."""
    loop = shared.loop

    def told(_: int) -> None:
        messages = teller.read()
        if messages is None:
            slot.starter_ended()
        for message in messages or ():
            slot.told(message)

    # Before the start, which may wait for a zygote that is still importing: the first lease is short.
    shared.heartbeats.keep(slot.attempt, slot.heard, slot.memory)
    try:
        slot.start()
        loop.watch(descriptor, told)
        while not slot.is_over(time.monotonic()):
            loop.turn(min(_LONGEST_PAUSE, slot.next_timer() - time.monotonic()))
            slot.check_timers(time.monotonic())
        return report(shared, slot, slot.close())  # which may have to wait for the API: the lease is kept until then
    finally:
        shared.heartbeats.stop()


def report(shared: Shared, slot: Slot, ending: Ending) -> int:
    """Tell the API what came of the only attempt; return the runner's exit code."""
    config = shared.config
    told = tell(ApiClient(config.url), slot.attempt.token, slot.log, ending, config.report_patience)
    if told.problem:
        print(f"windlass-runner: the end of the attempt was not taken: {told.problem}", flush=True)  # noqa: T201 - for kubectl logs
    shared.logs.flush(LAST_FLUSH)  # nobody waits for us any more
    return told.code
