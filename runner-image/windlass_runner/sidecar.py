"""``python -m windlass_runner.sidecar``: the runner of a container task, beside the main container.

It claims when the shim has said that the main container runs, so a run whose image cannot be pulled stays Queued and
says why. It never ends by itself: the kubelet would start it again while the main container is ending. It waits for
SIGTERM, which the kubelet sends to sidecars when the main container has ended.
"""

import os
import signal

from windlass_runner import STOP_SIGNALS

# As in __main__: a signal that comes while we import must wait, not vanish.
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

import select  # noqa: E402 - after the signals are held back
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import NoReturn  # noqa: E402

from windlass_runner import exit_codes  # noqa: E402
from windlass_runner.api import Refused, Unreachable  # noqa: E402
from windlass_runner.command import run_command  # noqa: E402
from windlass_runner.config import Config, arm_failpoints, forget_credential  # noqa: E402
from windlass_runner.main import StoppedError, Stopping, claim, leave, say, withdraw  # noqa: E402
from windlass_runner.shared import Shared  # noqa: E402
from windlass_runner.shim import Shim, accept, listen  # noqa: E402


def main() -> NoReturn:
    """Serve one attempt, then wait to be ended."""
    arm_failpoints("runner")
    stopping = Stopping()
    _on_stop(_nothing_to_lose)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    config = Config(os.environ)
    folder = os.environ.get("WINDLASS_SHARED") or "/run/windlass"
    forget_credential()
    listener = listen(folder)
    _wait(listener.fileno(), stopping.wake[0])
    shim = accept(listener)
    code = _serve(config, shim, folder, stopping)
    _on_stop(_nothing_to_lose)
    shim.leave(code)
    sys.stdout.flush()
    while shim.read() is not None:  # until its container has ended
        pass
    while not stopping.times:  # once we were asked to stop, nobody asks again
        _wait(stopping.wake[0])
        os.read(stopping.wake[0], 1024)  # an answer to a heartbeat: signals have handlers that do not return
    leave(exit_codes.DONE)


def _wait(*descriptors: int) -> None:
    """Wait until one of these is readable. The handler of a signal that wakes us has run when this returns."""
    select.select(descriptors, [], [])


def _serve(config: Config, shim: Shim, folder: str, stopping: Stopping) -> int:
    """Run one attempt and return the exit code for the main container."""
    try:
        _on_stop(stopping.ask)
        with shim.interrupting(stopping.ask):
            answer = claim(config)
        stopping.claimed()
    except StoppedError:
        withdraw(config)
        return exit_codes.DONE
    except Unreachable as error:
        say(f"the API could not be reached: {error}")
        return exit_codes.API_UNREACHABLE
    except Refused as error:
        say(f"the API refused this pod: {error}")
        return exit_codes.API_UNREACHABLE
    if not answer.attempts:
        return exit_codes.DONE if answer.leave else exit_codes.NOTHING_TO_CLAIM
    claimed_at = time.monotonic()
    config.secrets = [*config.secrets, *shim.secrets]
    shared = Shared(config, wake=stopping.wake, stopping=stopping.times)
    return run_command(shared, shim, answer.attempts[0], folder=folder, claimed_at=claimed_at)


def _on_stop(handler: Callable[..., None]) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _nothing_to_lose(*_: object) -> None:
    leave(exit_codes.DONE)


if __name__ == "__main__":
    main()
