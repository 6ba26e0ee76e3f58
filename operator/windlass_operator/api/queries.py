"""Query parameters of the public routes. An unknown one is refused: a misspelt filter must not list everything."""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from windlass.durations import PATTERN
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.run_lists import Order, RunFilter

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_TEXT: Final = r"^[^\x00]+$"
"""Postgres text has no NUL."""

_ORDERS: Final[dict[str, Order]] = {
    "-created": "created_desc",
    "created": "created_asc",
    "-finished": "finished_desc",
    "finished": "finished_asc",
}


def _time(value: Any) -> datetime:
    text = str(value)
    if not _TIME.fullmatch(text):
        raise ValueError("not a time as RFC 3339 writes it, such as 2026-11-21T07:30:00Z; encode a + as %2B")
    moment = datetime.fromisoformat(text.upper())
    moment.timestamp()  # a time that no clock shows, such as one before year 1 in UTC
    return moment


Time = Annotated[
    datetime,
    BeforeValidator(_time),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-21T07:30:00Z"]}),
]
Wait = Annotated[str, Field(pattern=PATTERN, max_length=32, examples=["30s"])]


class NoQuery(BaseModel):
    """A route without query parameters."""

    model_config = ConfigDict(extra="forbid")


class RunsQuery(NoQuery):
    """Filters, order and page of a list of runs."""

    state: list[RunState] = Field(
        [], max_length=20, description="Only runs in this state. Repeat it for any of several."
    )
    task: str | None = Field(
        None, min_length=1, max_length=253, pattern=_TEXT, description="Only runs of this Task.", examples=["order"]
    )
    parent: UUID | None = Field(None, description="Only runs that the code of this run has started.")
    tag: list[Annotated[str, Field(min_length=1, max_length=128, pattern=_TEXT)]] = Field(
        [], max_length=10, description="Only runs with this tag. Repeat it for runs that have all of several."
    )
    createdAfter: Time | None = Field(None, description="Created at this time or later.")  # noqa: N815 - the wire's name
    createdBefore: Time | None = Field(None, description="Created earlier than this.")  # noqa: N815 - the wire's name
    finishedAfter: Time | None = Field(None, description="Finished at this time or later.")  # noqa: N815 - the wire's name
    finishedBefore: Time | None = Field(None, description="Finished earlier than this.")  # noqa: N815 - the wire's name
    error: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=_TEXT,
        description="Only runs with this text in their message or last failure, in upper or lower case, or with this "
        "reason. It may have to read every run: narrow it down by time, state or task.",
        examples=["connection refused"],
    )
    sort: Literal["-created", "created", "-finished", "finished"] = Field(
        "-created", description="Order: newest first by default. By `finished`, only finished runs are listed."
    )
    limit: int = Field(50, ge=1, le=500, description="Runs on a page.")
    cursor: str | None = Field(
        None, min_length=1, max_length=500, description="`nextCursor` of the page before; keep sort and filters."
    )

    def order(self) -> Order:
        """Return the order as the ledger names it."""
        return _ORDERS[self.sort]

    def wanted(self) -> RunFilter:
        """Return which runs are asked for."""
        return RunFilter(
            states=frozenset(self.state),
            task=self.task,
            parent=self.parent,
            tags=tuple(self.tag),
            created_after=self.createdAfter,
            created_before=self.createdBefore,
            finished_after=self.finishedAfter,
            finished_before=self.finishedBefore,
            error=self.error,
        )


class TreeQuery(NoQuery):
    """How much of a tree."""

    limit: int = Field(1000, ge=1, le=1000, description="Runs at most, one level after the other.")


class ItemsQuery(NoQuery):
    """A page of steps or events."""

    after: int = Field(0, ge=0, le=2**63 - 1, description="`nextCursor` of the page before.")
    limit: int = Field(500, ge=1, le=1000, description="Items on a page.")


class LogsQuery(NoQuery):
    """A page of log lines."""

    after: str = Field(
        "0.0",
        pattern=r"^[0-9]{1,9}\.[0-9]{1,18}$",
        description="`nextCursor` of the page before.",
        examples=["1.250"],
    )
    limit: int = Field(1000, ge=1, le=5000, description="Lines on a page.")
    wait: Wait = Field("0s", description="Hold the request until there are lines, at most one minute.")

    def position(self) -> tuple[int, int]:
        """Return attempt and line after which the page begins."""
        attempt, _, line = self.after.partition(".")
        return int(attempt), int(line)


class TriggerQuery(NoQuery):
    """Whether to wait for the result."""

    wait: Wait | None = Field(
        None, description="Hold the request until the run has ended, at most one minute, and answer as `/result` does."
    )


class ResultQuery(NoQuery):
    """How long to wait for a result."""

    wait: Wait = Field("0s", description="Hold the request until the run has ended, at most one minute.")
