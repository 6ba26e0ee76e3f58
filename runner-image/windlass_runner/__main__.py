"""``python -m windlass_runner``: process 1, from its first line to its first import that costs something.

The order is what a start costs: the zygote, which imports most, is on its way while process 1 imports msgspec.
"""

import os
import signal

from windlass_runner import STOP_SIGNALS
from windlass_runner.config import in_process, user_environment
from windlass_runner.zygote_process import Zygote

TYPE_CHECKING = False  # as in the SDK
if TYPE_CHECKING:
    from windlass_runner.worker_process import Worker

# The kernel drops a signal that process 1 has no handler for: one that comes while we import must wait, not vanish.
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
starter: "Zygote | Worker"
if in_process(os.environ):
    from windlass_runner.worker_process import Worker

    starter = Worker(user_environment(os.environ))
else:
    starter = Zygote(user_environment(os.environ))

from windlass_runner import light  # noqa: E402 - after the zygote

light.import_msgspec()

from windlass_runner.main import main  # noqa: E402 - after msgspec

main(starter)
