"""Process 1 of a runner pod: holds the credential, claims, and never runs user code itself.

It starts fast: the zygote imports while the claim is on its way, and nothing is imported here that the claim does not
need.
"""

import contextlib
import os
import signal
import sys
import time
from typing import NoReturn

import msgspec

from windlass import protocol
from windlass_runner import STOP_SIGNALS, exit_codes
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.config import Config, forget_credential, user_environment
from windlass_runner.zygote_process import Zygote

_WITHDRAW = 5.0
"""Seconds that a withdrawal may take, of the pod's termination grace."""
_NOT_DUMPABLE = 4  # PR_SET_DUMPABLE, see prctl(2)


class _StoppedError(Exception):
    """SIGTERM came before anything was claimed."""


def main(zygote: Zygote | None = None) -> NoReturn:
    """Run one attempt and exit with a code of :mod:`windlass_runner.exit_codes`.

    Args:
        zygote: Started already.
    """
    zygote = zygote or Zygote(user_environment(os.environ))
    config = Config(os.environ)
    stopping: list[float] = []
    waiting = [True]
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)

    def stop(*_: object) -> None:
        stopping.append(time.monotonic())
        if waiting[0]:
            waiting[0] = False
            raise _StoppedError
        with contextlib.suppress(BlockingIOError):  # full: the loop wakes anyway
            os.write(write, b"s")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        attempt = _claim(config, zygote)
        waiting[0] = False
    except _StoppedError:
        _withdraw(config)
        _leave(exit_codes.DONE)
    except Unreachable as error:
        _say(f"the API could not be reached: {error}")
        _leave(exit_codes.API_UNREACHABLE)
    except Refused as error:
        _say(f"the API refused this pod: {error}")
        _leave(exit_codes.API_UNREACHABLE)
    if attempt is None:
        _leave(exit_codes.NOTHING_TO_CLAIM)
    from windlass_runner.supervisor import Supervisor

    supervisor = Supervisor(config, zygote, attempt, claimed_at=time.monotonic(), wake=(read, write), stopping=stopping)
    _leave(supervisor.run())


def _claim(config: Config, zygote: Zygote) -> protocol.ClaimedAttempt | None:
    request, credential = _claim_request(config)
    started = False

    def meanwhile() -> None:
        """While the API thinks: close ourselves to other processes of our user, then let user code in."""
        nonlocal started
        if not started:
            started = True
            _close_ourselves()
            zygote.preload(config.preload)

    answer = ApiClient(config.url).call(
        "/claim",
        request,
        token=credential,
        patience=config.claim_patience,
        timeout=config.wait_ms / 1000 + 30,
        retry_codes=frozenset({protocol.PodUnknown}),
        sent=meanwhile,
    )
    attempts = msgspec.json.decode(answer, type=protocol.ClaimResponse).attempts
    return attempts[0] if attempts else None


def _claim_request(config: Config) -> tuple[protocol.ClaimRequest, str]:
    """Return this pod's only claim, and the credential that goes with it."""
    credential, projected = config.credential()
    request = protocol.ClaimRequest(
        claim_id=config.claim_id,
        pod_name=config.pod_name,
        pod_uid=config.pod_uid,
        wait_ms=config.wait_ms,
        credential="token" if projected else "secret",
    )
    return request, credential


def _withdraw(config: Config) -> None:
    """Hand back what the claim may have taken: we were stopped before its answer came, so only the API knows."""
    request, credential = _claim_request(config)
    with contextlib.suppress(Refused, Unreachable):
        ApiClient(config.url).call("/withdraw", request, token=credential, patience=_WITHDRAW, timeout=_WITHDRAW)


def _close_ourselves() -> None:
    """Keep user code, which has our user id, out of our memory and environment."""
    import ctypes

    if ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0) != 0:
        _say("prctl(PR_SET_DUMPABLE) failed; user code is not started.")
        _leave(exit_codes.API_UNREACHABLE)
    forget_credential()


def _say(text: str) -> None:
    print(f"windlass-runner: {text}", file=sys.stderr, flush=True)  # noqa: T201 - for kubectl logs


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads and the zygote have nothing left to say; as process 1 we take them with us
