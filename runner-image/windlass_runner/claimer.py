"""The thread that asks for work while slots of a reusable pod are free."""

import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from windlass import protocol
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.config import Config

_RECOVER: Final = 10.0
"""Seconds for asking after what a claim took whose answer was lost: the first lease is not much longer."""
_HASTY: Final = 0.1
"""Seconds: an empty answer that comes sooner was not waited for."""


class Claimer:
    """One long poll at a time.

    Args:
        config: Of the pod.
        session: What this pod claims with.
        answered: Called in this thread with each answer and the time at which it came.
        refused: Called in this thread with why the API will not have this pod any more. Nothing is asked after that.
    """

    def __init__(
        self,
        config: Config,
        session: str,
        answered: Callable[[protocol.ClaimResponse, float], None],
        refused: Callable[[str], None],
    ) -> None:
        self._config = config
        self._session = session
        self._answered = answered
        self._refused = refused
        self._claim_id = new_claim_id()
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
        self._thread.start()

    def ask(self, slots: int) -> None:
        """Ask for work for so many slots. Not again before it is answered."""
        self._slots.put(slots)

    def withdraw(self, done: Callable[[], None], patience: float) -> None:
        """Hand back, in a thread, what the claim under way may have taken: we do not wait for its answer any more.

        Args:
            done: Called in that thread afterwards, whether the API has heard of it or not.
            patience: Seconds that it may take.
        """
        self._stopped = True
        request = self._request(1)

        def work() -> None:
            api = ApiClient(self._config.url)
            try:
                api.call("/withdraw", request, token=self._session, patience=patience, timeout=patience)
            except (Refused, Unreachable):
                pass  # the pod's end tells the same, later
            finally:
                done()

        threading.Thread(target=work, name="withdrawal", daemon=True).start()

    def _request(self, slots: int) -> protocol.ClaimRequest:
        return session_claim(self._config, self._claim_id, slots, self._config.wait_ms)

    def _run(self) -> None:
        api = ApiClient(self._config.url)
        hasty = 0
        while True:
            slots = self._slots.get()
            asked = time.monotonic()
            try:
                body = api.call(
                    "/claim",
                    self._request(slots),
                    token=self._session,
                    patience=float("inf"),  # there is nothing else to do
                    timeout=self._config.wait_ms / 1000 + 30,
                    retry_codes=frozenset({protocol.PodUnknown}),
                    stop=lambda: self._stopped,
                )
                answer = msgspec.json.decode(body, type=protocol.ClaimResponse)
            except Unreachable:  # stopped meanwhile
                return
            except (Refused, msgspec.DecodeError) as error:
                self._refused(str(error))
                return
            if not self._stopped:  # its withdrawal names the claim that may have taken something
                self._claim_id = new_claim_id()
            self._answered(answer, time.monotonic())
            hasty = 0 if answer.attempts or time.monotonic() - asked > _HASTY else min(hasty + 1, 8)
            if hasty:  # answers that come at once and empty would be asked for again and again
                time.sleep(random.uniform(0, 0.02 * 2**hasty))  # noqa: S311 - jitter, not a secret


def new_claim_id() -> str:
    """Return an id for a claim."""
    return os.urandom(16).hex()


def session_claim(config: Config, claim_id: str, slots: int, wait_ms: int) -> protocol.ClaimRequest:
    """Return a claim of a pod that has a session."""
    return protocol.ClaimRequest(
        claim_id=claim_id,
        pod_name=config.pod_name,
        pod_uid=config.pod_uid,
        slots=slots,
        wait_ms=wait_ms,
        credential="session",
    )


def recover(api: ApiClient, config: Config, session: str, claim: protocol.NextClaim) -> protocol.ClaimResponse:
    """Ask again for what a claim took that went with a report: a repeated report is not answered with it.

    Args:
        api: The calling thread's.
        config: Of the pod.
        session: What this pod claims with.
        claim: The claim.
    """
    request = session_claim(config, claim.claim_id, claim.slots, 0)
    try:
        body = api.call("/claim", request, token=session, patience=_RECOVER, timeout=_RECOVER / 2)
    except (Refused, Unreachable):  # the next claim tells the same
        return protocol.ClaimResponse()
    return msgspec.json.decode(body, type=protocol.ClaimResponse)
