"""``python -m windlass_runner``."""

import signal

from windlass_runner import STOP_SIGNALS

# The kernel drops a signal that process 1 has no handler for: one that comes while we import must wait, not vanish.
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

from windlass_runner.main import main  # noqa: E402 - after the signals are held back

main()
