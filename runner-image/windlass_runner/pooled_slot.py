"""An attempt in a pod that runs many: its zygote is not its own."""

from windlass import protocol
from windlass_runner.shared import Shared
from windlass_runner.slot import Slot
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
