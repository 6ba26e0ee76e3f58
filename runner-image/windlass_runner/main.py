"""Process 1 of a runner pod: holds the credential, claims, and never runs user code itself.

It starts fast: the zygote imports while the claim is on its way, and nothing is imported here that the claim does not
need.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from windlass import protocol
from windlass_runner import STOP_SIGNALS, exit_codes
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.config import Config, arm_failpoints, forget_credential, user_environment
from windlass_runner.zygote_process import Zygote

TYPE_CHECKING = False  # as in the SDK
if TYPE_CHECKING:
    from windlass_runner.worker_process import Worker

_WITHDRAW = 5.0
"""Seconds that a withdrawal may take, of the pod's termination grace."""
_TRY = 60.0
"""Seconds for which one call of a pod that is kept ready is tried: its token may be another one after that."""
_OUTAGE = 86_400.0
"""Seconds for which a pod that is kept ready waits for an API that it has reached before."""
_NOT_DUMPABLE = 4  # PR_SET_DUMPABLE, see prctl(2)


class StoppedError(Exception):
    """The pod must stop, and nothing is claimed yet."""


class Stopping:
    """What is to happen when the pod must stop: a claim is interrupted, and after it the loop is woken.

    Attributes:
        times: Monotonic times at which it was asked for.
        wake: Read and write end of the pipe that wakes the loop.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.wake = os.pipe()
        self._claiming = True
        for end in self.wake:
            os.set_blocking(end, False)
        # Python runs a handler between two of its own steps. If a blocking call begins just after a signal came, that
        # is when the call ends; the byte that the signal leaves here ends it.
        signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)

    def ask(self, *_: object) -> None:
        """Stop; a signal handler.

        Raises:
            StoppedError: Nothing is claimed yet.
        """
        self.times.append(time.monotonic())
        if self._claiming:
            self._claiming = False
            raise StoppedError
        with contextlib.suppress(BlockingIOError):  # full: the loop wakes anyway
            os.write(self.wake[1], b"s")

    def claimed(self) -> None:
        """Interrupt nothing from now on."""
        self._claiming = False


def main(starter: "Zygote | Worker | None" = None) -> NoReturn:
    """Run one attempt, or in a pod of a pool many, and exit with a code of :mod:`windlass_runner.exit_codes`.

    Args:
        starter: Started already: the zygote, or the worker process of a pod that runs in-process.
    """
    starter = starter or Zygote(user_environment(os.environ))
    arm_failpoints("runner")
    config = Config(os.environ)
    stopping = Stopping()
    signal.signal(signal.SIGTERM, stopping.ask)
    signal.signal(signal.SIGINT, stopping.ask)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        answer = claim(config, lambda: _let_user_code_in(config, starter))
        stopping.claimed()
    except StoppedError:
        withdraw(config)
        leave(exit_codes.DONE)
    except Unreachable as error:
        say(f"the API could not be reached: {error}")
        leave(exit_codes.API_UNREACHABLE)
    except Refused as error:
        say(f"the API refused this pod: {error}")
        leave(exit_codes.API_UNREACHABLE)
    claimed_at = time.monotonic()
    if not answer.attempts and answer.session is None:
        leave(exit_codes.DONE if answer.leave else exit_codes.NOTHING_TO_CLAIM)
    from windlass_runner.shared import Shared

    shared = Shared(config, wake=stopping.wake, stopping=stopping.times)
    if answer.session is not None:
        from windlass_runner.reusable import ReusableRunner

        leave(ReusableRunner(shared, starter, answer, answer.session, claimed_at).run())
    if not isinstance(starter, Zygote):
        say("the API gave this pod one run without a session; runs in one process need a pod of a pool.")
        leave(exit_codes.API_UNREACHABLE)
    from windlass_runner.slot import Slot
    from windlass_runner.supervisor import run_child

    leave(run_child(shared, starter, Slot(shared, starter, answer.attempts[0], claimed_at=claimed_at)))


def claim(config: Config, meanwhile: Callable[[], None] = lambda: None) -> protocol.ClaimResponse:
    """Ask for work, for the first time, and for the last unless the answer has a session.

    A single-use pod that is kept ready asks until something comes: always for the same claim, so it is once even so.

    Args:
        config: Of the pod.
        meanwhile: Called once, while the API thinks.

    Raises:
        Refused: The API will not have this pod.
        Unreachable: The API does not answer.
    """
    started = False

    def sent() -> None:
        nonlocal started
        if not started:
            started = True
            meanwhile()

    api = ApiClient(config.url)
    patience, until = config.claim_patience, 0.0
    while True:
        request, credential = _claim_request(config)
        try:
            body = api.call(
                "/claim",
                request,
                token=credential,
                patience=patience,
                timeout=config.wait_ms / 1000 + 30,
                retry_codes=frozenset({protocol.PodUnknown}),
                sent=sent,
            )
        except Unreachable:
            if time.monotonic() >= until:
                raise
            continue
        answer = msgspec.json.decode(body, type=protocol.ClaimResponse)
        if answer.attempts or answer.session is not None or not answer.again:
            return answer
        patience, until = _TRY, time.monotonic() + _OUTAGE


def _claim_request(config: Config) -> tuple[protocol.ClaimRequest, str]:
    """Return this pod's first claim, and the credential that goes with it now."""
    credential, projected = config.credential()
    request = protocol.ClaimRequest(
        claim_id=config.claim_id,
        pod_name=config.pod_name,
        pod_uid=config.pod_uid,
        wait_ms=config.wait_ms,
        credential="token" if projected else "secret",
    )
    return request, credential


def withdraw(config: Config) -> None:
    """Hand back what the claim may have taken: we were stopped before its answer came, so only the API knows."""
    request, credential = _claim_request(config)
    with contextlib.suppress(Refused, Unreachable):
        ApiClient(config.url).call("/withdraw", request, token=credential, patience=_WITHDRAW, timeout=_WITHDRAW)


def _let_user_code_in(config: Config, starter: "Zygote | Worker") -> None:
    """Close ourselves to other processes of our user, then let the zygote import the user's module."""
    _close_ourselves()
    starter.preload(config.preload)
    from windlass_runner import supervisor  # noqa: F401 - needed after the answer, and there is time until then


def _close_ourselves() -> None:
    """Keep user code, which has our user id, out of our memory and environment."""
    import ctypes

    if ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0) != 0:
        say("prctl(PR_SET_DUMPABLE) failed; user code is not started.")
        leave(exit_codes.API_UNREACHABLE)
    forget_credential()


def say(text: str) -> None:
    """Tell whoever reads the container's own log."""
    print(f"windlass-runner: {text}", file=sys.stderr, flush=True)  # noqa: T201 - for kubectl logs


def leave(code: int) -> NoReturn:
    """End this process, whatever its threads do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads and the zygote have nothing left to say; as process 1 we take them with us
