"""Whether what lies outside of the ledger agrees with it: pods, Run resources, and the objects of the store.

Used by ``windlass-operator doctor --verify-ledger`` beside the rules of the ledger itself. It only reads. The operator
makes differences good by itself: what is found is looked for again until it is gone or the operator has had its time.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol

from windlass_operator.blobs.store import BlobStoreConfigError
from windlass_operator.domain.errors import BlobStoreUnavailableError, WindlassError
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeConfigError, KubeError
from windlass_operator.ledger.invariants import Broken
from windlass_operator.services.invariants import Check, Report

SETTLED: Final = timedelta(seconds=30)
"""What is younger may be on its way: to the cluster, to a list, to the ledger."""

PAUSES: Final = (0.5, 1.5, 3.0, 5.0, 10.0, 15.0, 20.0, 20.0)
"""Seconds from one look to the next, 75 in all: more than two resyncs of the operator take to come."""

_LOOPS: Final = "The operator makes this good within a minute. Does one lead, and do its loops run? See its log."

POD_CHECKS: Final = (
    Check("attempt_pods", "I4", "The pod of each open attempt is there.", _LOOPS),
    Check("pods_there", "I4", "Each pod that the ledger believes to be there is there.", _LOOPS),
    Check(
        "pods_known",
        "I4",
        "Each pod of ours is known to the ledger.",
        "Was the ledger restored? A run that the pod has begun may be begun again; then delete the pod.",
    ),
    Check(
        "pods_left_over",
        "I4",
        "No pod is left over.",
        "The operator asks for its deletion. If it does not go: is its node gone, or has it a finalizer of others?",
    ),
)
RUN_CHECKS: Final = (
    Check(
        "runs_known",
        "I5",
        "Each Run shows a run of the ledger, its own, or why it has none.",
        "Was the ledger restored, or a status copied? A Run that must run nevertheless is deleted and created again.",
    ),
    Check(
        "statuses",
        "I5",
        "Each Run shows the state that its run has.",
        "Does an operator lead? Its log says `status not written`. What others wrote stays until the next change.",
    ),
    Check(
        "resources_there",
        "I5",
        "Each unfinished run that has a Run resource has it still.",
        "The operator cancels such runs, unless most are gone at once: see its log. Or `windlass runs cancel`.",
    ),
)
OBJECT_CHECKS: Final = (
    Check(
        "objects_there",
        "I11",
        "Each large value that is recorded is in the object store.",
        "Is it the bucket that it was written to? Restore what was deleted; else runs that need the value fail.",
    ),
    Check(
        "objects_owned",
        "I11",
        "Each object belongs to a run of the ledger.",
        "The API sweeps every 6 hours: see its log. If the ledger was restored, these are of runs that it has lost.",
    ),
)
OUTSIDE: Final = (*POD_CHECKS, *RUN_CHECKS, *OBJECT_CHECKS)


class NotLookedAtError(WindlassError):
    """There is nothing to be looked at from here."""

    code = "NotLookedAt"


class Look(Protocol):
    """A look at one kind of thing."""

    @property
    def checks(self) -> Sequence[Check]:
        """The rules that it looks for."""
        ...

    @property
    def patient(self) -> bool:
        """Whether somebody makes good what is found, and must be given the time for it."""
        ...

    async def find(self) -> list[Broken]:
        """Return what does not agree at the moment.

        Raises:
            WindlassError: It cannot be looked at.
        """
        ...


class Unreachable:
    """A look that is not possible.

    Args:
        checks: What cannot be looked at.
        why: In a sentence.
    """

    patient = False

    def __init__(self, checks: Sequence[Check], why: str) -> None:
        self.checks = checks
        self._why = why

    async def find(self) -> list[Broken]:
        """Say why."""
        raise NotLookedAtError(self._why)


async def examine(
    looks: Sequence[Look],
    report: Report,
    *,
    pauses: Sequence[float] | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Look at everything, and add to the report what is still so after the last look, and what was not looked at.

    Args:
        looks: What to look at.
        report: What was found of the ledger itself.
        pauses: Seconds between looks; None: :data:`PAUSES`. Looks that are not patient are made twice.
        told: Is told how much does not agree, before each pause.

    Raises:
        LedgerUnavailableError: The ledger does not answer.
        InvariantsTooSlowError: It is too busy.
    """
    found: dict[Look, list[Broken]] = {}
    for look in looks:
        await _first(look, found, report)
    for number, pause in enumerate(PAUSES if pauses is None else pauses):
        doubted = [look for look, broken in found.items() if broken and (look.patient or number == 0)]
        if not doubted:
            break
        told(sum(len(broken) for broken in found.values()))
        await asyncio.sleep(pause)
        for look in doubted:
            await _again(look, found, report)
    for look, broken in found.items():
        report.add(look.checks, broken)


async def _first(look: Look, found: dict[Look, list[Broken]], report: Report) -> None:
    try:
        found[look] = await look.find()
    except WindlassError as error:
        _skip(look, error, report)


async def _again(look: Look, found: dict[Look, list[Broken]], report: Report) -> None:
    try:
        now = set(await look.find())
    except WindlassError as error:
        # What was found before was found once; to tell the rest as sound would be no better.
        del found[look]
        _skip(look, error, report)
    else:
        found[look] = [broken for broken in found[look] if broken in now]


def _skip(look: Look, error: WindlassError, report: Report) -> None:
    """Note that something was not looked at.

    Raises:
        WindlassError: It is no trouble of the cluster or of the store.
    """
    ours = (KubeError, KubeConfigError, BlobStoreUnavailableError, BlobStoreConfigError, NotLookedAtError)
    if not isinstance(error, ours):
        raise error
    why = error.message
    if isinstance(error, ForbiddenByPolicyError):
        why = f"{why} The operator's pod may: run it there."
    for check in look.checks:
        report.skipped[check.name] = " ".join(why.split())
