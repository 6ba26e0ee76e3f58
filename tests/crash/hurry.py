"""Makes API and operator look often and wait little, so that one scenario takes a second and not a minute.

Only times change: of loops, leases and pauses. What is decided, and by which rules, stays.
"""

from datetime import timedelta
from typing import Any, Final

from windlass_operator import config
from windlass_operator.domain import backlog, compensation, retry
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.handlers import watch
from windlass_operator.ledger import attempts as attempts_table
from windlass_operator.services import imports, lookout, loops, pods

FASTER: Final = 10
_SOON: Final = timedelta(milliseconds=300)


def hurry() -> None:
    """Change the times of this process."""
    values: list[tuple[Any, str, Any]] = [
        (config, "LEASE", timedelta(seconds=3)),
        (config, "FIRST_LEASE", timedelta(seconds=2)),
        (config, "HEARTBEAT", timedelta(seconds=1)),
        (attempts_table, "SERVICE_GAP", timedelta(seconds=0.8)),
        (lookout, "_FRESH", timedelta(milliseconds=300)),
        (pods, "_KEEP_SUCCEEDED", _SOON),
        (pods, "_KEEP_FAILED", _SOON),
        (pods, "_STALE_PLAN", _SOON),
        (pods, "_SETTLED", _SOON),
        (pods, "_IDLE", timedelta(seconds=1)),
        (imports, "_SETTLED", _SOON),
        (retry, "_INFRA_DELAY", timedelta(milliseconds=20)),
        (compensation, "_DELAYS", RetryPolicy(min_delay=timedelta(milliseconds=20))),
        (backlog, "_BACKOFF", RetryPolicy(min_delay=timedelta(milliseconds=100), jitter="none")),
    ]
    for module, name, value in values:
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} any more")
        setattr(module, name, value)
    _more_often()
    _kopf()


def _more_often() -> None:
    ordinary = loops.Loop.__init__

    def often(self: loops.Loop, name: str, work: Any, *, every: timedelta, apart: timedelta = timedelta(0)) -> None:
        ordinary(self, name, work, every=every / FASTER, apart=apart / FASTER)

    setattr(loops.Loop, "__init__", often)  # noqa: B010 - mypy knows that this is no place to assign to
    setattr(lookout.Lookout.__init__, "__kwdefaults__", {"every": lookout.EVERY / FASTER})  # noqa: B010 - as above


def _kopf() -> None:
    ordinary = watch.settings

    def settings(*, listed_namespaces: bool) -> Any:
        configured = ordinary(listed_namespaces=listed_namespaces)
        configured.networking.error_backoffs = [0.05, 0.1, 0.2, 0.4, 0.8]
        return configured

    setattr(watch, "settings", settings)  # noqa: B010 - as above
