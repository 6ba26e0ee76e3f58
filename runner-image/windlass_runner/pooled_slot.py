"""An attempt in a pod that runs many: its zygote is not its own."""

import os
import time

from windlass import protocol
from windlass_runner.endings import Ending
from windlass_runner.shared import Shared
from windlass_runner.slot import Slot
from windlass_runner.spares import Spare
from windlass_runner.zygote_process import Zygote


class PooledSlot(Slot):
    """One attempt of a reusable pod.

    Args:
        shared: What all attempts of the runner share.
        zygote: Starts the child.
        attempt: What was claimed.
        claimed_at: Monotonic time of the claim.
    """

    def __init__(self, shared: Shared, zygote: Zygote, attempt: protocol.ClaimedAttempt, *, claimed_at: float) -> None:
        super().__init__(shared, zygote, attempt, claimed_at=claimed_at)
        if attempt.source is None:
            self.module = attempt.entrypoint.partition(":")[0]
        self._given_up = False
        self._zygote = zygote
        self._spare: Spare | None = None

    def _begin(self, body: bytes) -> None:
        spares = self._zygote.spares
        spare = spares and spares.take(self.attempt.attempt_id, self.module, body, time.monotonic())
        if not spare:
            super()._begin(body)
            return
        self._spare, self.pid = spare, spare.pid
        self._add_outputs(spare.outputs)
        self._result_fd = spare.result
        self._loop.watch(self._result_fd, self._read_result)

    def _read_result(self, descriptor: int) -> int:
        try:
            return super()._read_result(descriptor)
        except ConnectionResetError:  # a child that was forked ahead has died before it read its attempt
            self._loop.forget(descriptor)
            self._result_fd = -1
            return 0

    def never_began(self) -> bool:
        """Whether its child, which has ended, was forked ahead and died before it began: then it is begun again."""
        if self._spare is None or self._spare.has_begun() or self._why is not None:
            return False
        if self._stopping:
            self._why = "released"
        return not self._stopping

    def begin_again(self, zygote: Zygote) -> None:
        """Begin anew, with a child of its own."""
        self._forget_spare()
        self.pid = self._exit = None
        self._result = b""
        self._zygote = zygote
        self.restart(zygote)

    def _forget_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare.file)
            self._spare = None

    def close(self) -> Ending:
        """Read what is left, and decide what came of the attempt."""
        ending = super().close()
        self._forget_spare()
        return ending

    def is_over(self, now: float) -> bool:
        """Ended, or given up before it began."""
        return self._given_up or super().is_over(now)

    def _give_up_start(self) -> None:
        """End a zygote that imports our module; one that is busy with another's is told nothing.

        It may start the child yet, which is killed then: nobody waits for it.
        """
        if self.importing:
            self.starter.kill()
        else:
            self._given_up = True

    def _imported(self) -> bool:
        return not self.importing
