"""What comes next when every run waits: an answer, a time, or a message that says what is missing. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from windlass.testing.errors import TestingError, UnscriptedWaitError
from windlass.testing.runs import Waiting
from windlass.testing.script import SILENCE, Script

_ANSWERED: Final = frozenset({"event", "approval", "token"})
"""Kinds of waits that end by what somebody says; the others end by time, or with another run."""


@dataclass(frozen=True)
class Decided:
    """What the script says about an approval."""

    approved: bool
    by: str
    comment: str | None


@dataclass(frozen=True)
class Idle:
    """Nothing can go on without an answer or time.

    Attributes:
        waits: What runs wait for, the next one due first.
        next_try: When a run is tried again.
        next_deadline: When a run is over its ``total_timeout``.
    """

    waits: list[Waiting]
    next_try: datetime | None
    next_deadline: datetime | None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> "Idle":
        """Read what the plane says."""
        waits = [
            Waiting(
                one["runId"], one["task"], one["key"], one["name"], one["kind"], one["target"], _time(one["due"]),
                one["question"], one["detail"],
            )
            for one in answer["waits"]
        ]  # fmt: skip
        return cls(waits, _time(answer["nextTry"]), _time(answer["nextDeadline"]))


def first_time(idle: Idle) -> datetime | None:
    """Return when anything is due at all."""
    times = [one.due for one in idle.waits] + [idle.next_try, idle.next_deadline]
    return min((time for time in times if time is not None), default=None)


def next_time(idle: Idle, script: Script) -> datetime:
    """Return the time to which the clock goes.

    Raises:
        UnscriptedWaitError: Before that, a wait would end by its timeout of which the script says nothing; or there is
            no such time at all.
    """
    open_ended = [one for one in idle.waits if one.kind in _ANSWERED and not _is_silent(one, script)]
    passing = [one.due for one in idle.waits if one not in open_ended] + [idle.next_try]
    until = min((time for time in passing if time is not None), default=None)
    timeout = min((one.due for one in open_ended if one.due is not None), default=None)
    if open_ended and (until is None or (timeout is not None and timeout <= until)):
        raise UnscriptedWaitError(_unscripted(open_ended))
    if until is None:
        until = idle.next_deadline
    if until is None:
        raise UnscriptedWaitError(_for_ever(idle.waits))
    return until


def only(waits: Sequence[Waiting], name: str | None, doing: str) -> Waiting:
    """Return the one wait that is meant.

    Raises:
        TestingError: There is none, or more than one.
    """
    found = [one for one in waits if name in (None, one.name)]
    if len(found) != 1:
        there = ", ".join(_what(one) for one in waits) or "none"
        raise TestingError(f"There must be exactly one run that {doing}, and there are {len(found)}. Waiting: {there}.")
    return found[0]


def not_taken(asked: Waiting, answer: Any) -> str:
    """Say that an answer was given, and that the wait goes on."""
    match = (asked.detail or {}).get("match") if isinstance(asked.detail, dict) else None
    return (
        f"The script's answer did not end the wait for {_what(asked)} of task {asked.task!r}: it was {answer!r}, and "
        f"the wait wants an event that contains {match!r}."
    )


def _is_silent(one: Waiting, script: Script) -> bool:
    return script.has(one) and script.answer(one) is SILENCE and one.due is not None


def _unscripted(waits: list[Waiting]) -> str:
    lines = [f"- Task {one.task!r} waits for {_what(one)}{_until(one)}. {_remedy(one)}" for one in waits]
    return "Nothing in this test lets the run go on:\n" + "\n".join(lines)


def _for_ever(waits: list[Waiting]) -> str:
    if not waits:
        return "The run is neither over nor waiting, and nothing can go on. Was it suspended, or paused?"
    lines = [f"- Task {one.task!r} waits for {_what(one)}, for ever." for one in waits]
    return "Nothing lets the run go on, and it has no timeout:\n" + "\n".join(lines)


def _what(one: Waiting) -> str:
    if one.kind == "approval":
        return f"an approval ({one.question!r})"
    if one.kind == "event":
        match = (one.detail or {}).get("match") if isinstance(one.detail, dict) else None
        return f"event {one.target!r}" + (f" with {match!r}" if match else "")
    if one.kind == "token":
        return f"token {one.target}"
    if one.kind == "run":
        return f"run {one.target} (step {one.key!r})"
    return f"{one.kind} {one.key!r}"


def _until(one: Waiting) -> str:
    return "" if one.due is None else f" until {one.due.isoformat(sep=' ', timespec='seconds')}"


def _remedy(one: Waiting) -> str:
    calls = {
        "event": (f"on_event({one.target!r}, {{...}})", f"send_event({one.target!r}, {{...}})"),
        "approval": ("on_approval(True)", "approve()"),
        "token": ("on_token({...})", "complete_token({...})"),
    }
    script, by_hand = calls[one.kind]
    silence = "" if one.due is None else " To let its timeout pass: answer with SILENCE instead."
    return f"Before run(): env.{script}. Or by hand, after start(): env.{by_hand}.{silence}"


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
