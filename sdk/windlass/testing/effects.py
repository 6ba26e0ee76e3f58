"""What a task does to the world, noted so that a killed process forgets nothing of it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass import branches
from windlass.context import active
from windlass.serialization import encode


@dataclass(frozen=True)
class Effect:
    """Something that was done.

    Attributes:
        what: Its name, such as ``mail``.
        args: What it was done with, as JSON has it; keyword arguments come last, as one object.
        key: The word by which the receiver knows a repeat: ``step.idempotency_key``, handed to it as ``key=``.
        step: Key of the step whose body did it; None for code outside of any step.
        run: Which run did it.
    """

    what: str
    args: tuple[Any, ...]
    key: str | None = None
    step: str | None = None
    run: str | None = None

    def __str__(self) -> str:
        """Return it as a call."""
        return f"{self.what}({', '.join(json.dumps(arg) for arg in self.args)})"


class Effects:
    """The effects of a test's runs, in the order in which they happened. Safe for threads, forks and kills.

    Args:
        path: File that keeps them; a write to it is complete or not there at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, what: str, *args: Any, key: str | None = None, **kwargs: Any) -> None:
        """Note that something is done. Call it in the stand-in for whatever the task calls.

        Args:
            what: Its name.
            *args: What it is done with: anything that JSON can say.
            key: The idempotency key that the receiver gets, if it gets one: a repeat with the same key counts as one.
            **kwargs: More of the same.
        """
        attempt, branch = active(), branches.current()
        values = [*args, kwargs] if kwargs else list(args)
        entry = {
            "what": what,
            "args": json.loads(encode(values, what=f"arguments of effect {what!r}")),
            "key": key,
            "step": branch.inside_step if branch is not None else None,
            "run": attempt.origin if attempt is not None else None,
        }
        append(self._path, {"effect": entry})

    def fake(self, what: str, returns: Any = None) -> Callable[..., Any]:
        """Return a function that notes its calls and returns always the same: to be put in the place of a real one.

        An argument ``idempotency_key`` is taken for the effect's key.
        """

        def called(*args: Any, **kwargs: Any) -> Any:
            key = kwargs.pop("idempotency_key", None)
            self.record(what, *args, key=key, **kwargs)
            return returns

        return called

    def all(self) -> list[Effect]:
        """Return what was done so far."""
        return [effect_of(entry["effect"]) for entry in entries(self._path) if "effect" in entry]

    def named(self, what: str) -> list[Effect]:
        """Return what was done under a name."""
        return [effect for effect in self.all() if effect.what == what]

    def __len__(self) -> int:
        return len(self.all())

    def clear(self) -> None:
        """Forget everything."""
        self._path.write_bytes(b"")


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line in one write: who is killed meanwhile has written all of it or nothing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(descriptor)


def entries(path: Path) -> list[dict[str, Any]]:
    """Return what was appended."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def effect_of(entry: dict[str, Any]) -> Effect:
    """Return an effect as it was recorded."""
    return Effect(entry["what"], tuple(entry["args"]), entry["key"], entry["step"], entry["run"])
