"""What a crash may change of a run, and what it may not. Pure.

At least once means: a body that a kill has cut off, between its beginning and its checkpoint, runs again, and so may
its effects. Nothing else may happen more often than without a crash, nothing may be missing, and the result must be
the same.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from windlass.testing.effects import Effect
from windlass.testing.journal import Passage

_SHOWN = 300


def differences(
    calm: Passage, crashed: Passage, *, exactly_once: bool = False, same: Callable[[Any], Any] = lambda value: value
) -> list[str]:
    """Return what a crash has changed and may not change, in sentences.

    Args:
        calm: The run without a crash.
        crashed: The run with one.
        exactly_once: Hold effects of a body that was cut off to their number too, unless they have a key.
        same: Called with results before they are compared.
    """
    found = [
        f"Step {key!r} of {run} was saved, and its body ran again: this must not happen, please report it."
        for run, key in crashed.repeated
    ]
    found += _outcomes(calm, crashed, same)
    found += _effects(calm.effects, crashed, exactly_once)
    found += _given(calm.given, crashed, exactly_once)
    return found


def _outcomes(calm: Passage, crashed: Passage, same: Callable[[Any], Any]) -> list[str]:
    if calm.state != crashed.state:
        why = f" ({crashed.error})" if crashed.error else ""
        return [f"The run is {crashed.state}{why}; without a crash it is {calm.state}."]
    if calm.state != "Succeeded":
        if calm.error == crashed.error:
            return []
        return [f"The run fails with {crashed.error}; without a crash with {calm.error}."]
    if same(calm.result) == same(crashed.result):
        return []
    return [f"The result is {_short(crashed.result)}; without a crash it is {_short(calm.result)}."]


def _effects(calm: Sequence[Effect], crashed: Passage, exactly_once: bool) -> list[str]:
    before, after = _counted(calm), _counted(crashed.effects)
    found = []
    for effect in [*before, *(e for e in after if e not in before)]:
        shown, expected, seen = _shown(effect), before[effect], after[effect]
        if seen == 0:
            found.append(f"Effect {shown} is missing; without a crash it happens {_times(expected)}.")
        elif expected == 0:
            found.append(f"Effect {shown} happens {_times(seen)}; without a crash it does not happen. {_new(effect)}")
        elif seen > expected:
            cut_off = (effect[4], effect[3]) in crashed.cut_off
            if not cut_off or exactly_once or seen > 2 * expected:
                said = f"Effect {shown} happens {_times(seen)}; without a crash {_times(expected)}."
                found.append(f"{said} {_again(effect, cut_off)}")
    return found


_Counted = tuple[str, str, str | None, str | None, str | None]
"""What, arguments as JSON, key, step, run."""


def _counted(effects: Sequence[Effect]) -> Counter[_Counted]:
    """Count effects; those with a key once, as their receiver does."""
    counted: Counter[_Counted] = Counter()
    for effect in effects:
        counted[effect.what, json.dumps(effect.args, sort_keys=True), effect.key, effect.step, effect.run] += 1
    return Counter({effect: 1 if effect[2] is not None else count for effect, count in counted.items()})


def _shown(effect: _Counted) -> str:
    what, args, _, step, _ = effect
    return f"{what}({_cut(args[1:-1])})" + (f" of step {step!r}" if step else "")


def _new(effect: _Counted) -> str:
    if effect[3] is None:
        return "It happens outside of any step, where code runs again in each attempt: put it into a @step."
    return (
        "Its arguments differ from attempt to attempt: take them from a step, or from windlass.now(), random(), uuid()."
    )


def _again(effect: _Counted, cut_off: bool) -> str:
    if effect[3] is None:
        return "It happens outside of any step, where code runs again in each attempt: put it into a @step."
    if cut_off:
        return (
            "The body was cut off before its checkpoint and ran again. Give the receiver step.idempotency_key, and the "
            "effect key=step.idempotency_key."
        )
    return "Its step was not cut off: something calls it more than once."


def _given(calm: Any, crashed: Passage, exactly_once: bool) -> list[str]:
    """Compare what the test's own function returned: a number, a list, or anything that can be compared."""
    after = crashed.given
    if calm == after:
        return []
    loose = bool(crashed.cut_off) and not exactly_once
    if loose and _is_number(calm) and _is_number(after) and calm < after <= 2 * calm:
        return []
    if loose and isinstance(calm, list) and isinstance(after, list):
        before, seen = Counter(map(_json, calm)), Counter(map(_json, after))
        if before.keys() == seen.keys() and all(before[e] <= seen[e] <= 2 * before[e] for e in before):
            return []
    why = "" if crashed.cut_off else " No step was cut off between its beginning and its checkpoint."
    return [f"The effects are {_short(after)}; without a crash they are {_short(calm)}.{why}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    return _cut(_json(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
