"""The ledger's clock in tests: stands still until it is moved."""

from datetime import UTC, datetime, timedelta


class Clock:
    """A time that only a test moves."""

    def __init__(self) -> None:
        self._now = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the current time."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self._now += by
