"""The testing kit: run tasks in pytest, with real durability and a clock that the test moves.

It needs ``pip install 'windlass[dev]'``. With pytest, the fixture ``windlass_env`` gives an :class:`Environment`:

>>> def test_order(windlass_env):
...     windlass_env.on_event("paid", {"amount": 80})
...     assert windlass_env.run(order, {"id": 7}).result == "sent"
"""

TYPE_CHECKING = False  # as in the package itself: names are loaded when they are used
if TYPE_CHECKING:
    from windlass.testing.crashing import CrashReport, crash_everywhere
    from windlass.testing.effects import Effect, Effects
    from windlass.testing.environment import Environment
    from windlass.testing.errors import CrashError, TestingError, UnscriptedWaitError
    from windlass.testing.runs import Run, StepSeen, Waiting
    from windlass.testing.script import SILENCE

_HOMES = {
    "SILENCE": "script",
    "CrashError": "errors",
    "CrashReport": "crashing",
    "Effect": "effects",
    "Effects": "effects",
    "Environment": "environment",
    "Run": "runs",
    "StepSeen": "runs",
    "TestingError": "errors",
    "UnscriptedWaitError": "errors",
    "Waiting": "runs",
    "crash_everywhere": "crashing",
}

__all__ = [
    "SILENCE",
    "CrashError",
    "CrashReport",
    "Effect",
    "Effects",
    "Environment",
    "Run",
    "StepSeen",
    "TestingError",
    "UnscriptedWaitError",
    "Waiting",
    "crash_everywhere",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'windlass.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"windlass.testing.{home}"), name)
