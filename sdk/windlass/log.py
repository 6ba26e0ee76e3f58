"""A logger for user code: plain ``logging``, to standard error, with the run's id in front."""

import logging

from windlass.context import active


class _RunFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        attempt = active()
        record.run = f" run={attempt.run.id} attempt={attempt.run.attempt}" if attempt else ""
        return True


logger = logging.getLogger("windlass.run")
"""Use it like any logger; its lines are a part of the run's log."""

if not logger.handlers:
    _handler = logging.StreamHandler()
    _handler.setFormatter(logging.Formatter("%(levelname)s%(run)s %(message)s"))
    _handler.addFilter(_RunFilter())
    logger.addHandler(_handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
