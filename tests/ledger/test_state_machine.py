"""Anything that may happen to runs, in any order and at once, against a model of what a ledger must do.

Hypothesis draws what happens, one thing or up to four at the same time, with runners that go on after their attempt was
closed. What the services answered and what the ledger shows must be what the model comes to in some order of the same
operations. Afterwards the rules of the ledger must hold.

``WINDLASS_STATE_MACHINE=1000`` draws so many examples; ``--hypothesis-seed`` repeats them.
"""

import asyncio
import copy
import itertools
import os
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.clock import Clock
from tests.support.ledger_driver import Driver, Op
from tests.support.reference_model import FINAL, Model, Step

EXAMPLES: Final = int(os.environ.get("WINDLASS_STATE_MACHINE", "10"))
_PHASES: Final = tuple(Phase) if "WINDLASS_STATE_MACHINE" in os.environ else (Phase.generate,)
"""To find the shortest story of a failure takes minutes; the whole story is told at once."""
STEPS: Final = 25
_MOST_RUNS: Final = 5
_KINDS: Final = (
    *("trigger", "claim", "claim", "claim_again", "heartbeat", "save", "save", "undoable", "wait", "start_child"),
    *("complete", "fail", "release", "suspend", "suspend", "cancel", "lose"),
)
_WORDS: Final = st.tuples(st.sampled_from(_KINDS), st.integers(0, 7), st.integers(0, 7))
_MEANWHILE: Final = ("resume", "resume", "pod_gone", "send", "send", "reap or fire")
_FAILURES: Final = ("user", "infra", "divergence", "permanent")


class LedgerMachine(RuleBasedStateMachine):
    """One example: a ledger, its model, and everything that happened to both."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.driver = self.runner.run(Driver.start(uri, self.clock))
        now = self.clock.now()
        self.model = Model(now, now, now)

    @initialize()
    def two_runs_are_under_way(self) -> None:
        self._happen([Op("trigger", (None,)), Op("trigger", ("a",))])
        self.at_once([("claim", 0, 0), ("claim", 0, 0)])

    @rule(words=st.lists(_WORDS, min_size=2, max_size=4))
    def at_once(self, words: list[tuple[str, int, int]]) -> None:
        """Up to four things at the same time."""
        self.runner.run(self.driver.start_pods())
        claims = iter(range(len(self.driver.idle)))
        ops = [op for word in words if (op := self._op(*word)) is not None]
        ops = [op for op in ops if op.name != "claim" or next(claims, None) is not None]
        again = [op for op in ops if op.name == "claim_again"]
        self._happen([op for op in ops if op.name != "claim_again"] + again[:1])

    @rule(words=st.lists(_WORDS, min_size=2, max_size=6))
    def one_by_one(self, words: list[tuple[str, int, int]]) -> None:
        for word in words:
            self.at_once([word])

    @rule(what=st.sampled_from(_MEANWHILE), pick=st.integers(0, 7))
    def meanwhile(self, what: str, pick: int) -> None:
        """What only happens by itself: operations whose parts are independent of each other."""
        suspended = [run_id for run_id, run in self.model.runs.items() if run.state == "Suspended"]
        if what == "resume" and suspended:
            self._happen([Op("resume", (suspended[pick % len(suspended)],))])
        elif what == "pod_gone" and self.model.attempts:
            self._happen([Op("pod_gone", (self._attempt(pick)[0],))])
        elif what == "send":
            self._happen([Op("send", (("paid", "sent")[pick % 2],))])
        else:
            self._happen([Op("fire"), Op("reap")][pick % 2 :][:1])

    @rule(seconds=st.sampled_from([5, 12, 31, 61, 4000]), served=st.booleans())
    def time_passes(self, seconds: int, served: bool) -> None:
        """With heartbeats being served meanwhile, or not; afterwards timers ring, and the reaper looks."""
        by = timedelta(seconds=seconds)
        self.runner.run(self.driver.pass_time(by, served=served))
        now = self.clock.now()
        gap = not served and now - self.model.served_at > timedelta(seconds=6)
        self.model.now = self.model.served_at = now
        self.model.served_since = now if gap else self.model.served_since
        self._happen([Op("reap")])
        self._happen([Op("fire")])

    def teardown(self) -> None:
        try:
            assert self.runner.run(self.driver.broken()) == []
        finally:
            self.runner.run(self.driver.close())
            self.runner.close()

    def _happen(self, ops: list[Op]) -> None:
        """Do these at once, and find an order in which the model comes to the same answers and the same end."""
        if not ops:
            return

        async def together() -> tuple[list[Any], dict[str, Any]]:
            seen = await asyncio.gather(*(self.driver.do(op) for op in ops))
            await self.driver.settle()
            return seen, await self.driver.shown()

        seen, shown = self.runner.run(together())
        happened = list(zip(ops, seen, strict=True))
        told = []
        for order in itertools.permutations(happened):
            model = copy.deepcopy(self.model)
            if not all(getattr(model, op.name)(*op.args, seen=answer) for op, answer in order):
                continue
            for _ in range(4):
                model.follow()
            expected = {run_id: run.shown() for run_id, run in model.runs.items()}
            if expected == shown:
                self.model = model
                return
            told.append(
                [(expected.get(r), shown.get(r)) for r in {*shown, *expected} if expected.get(r) != shown.get(r)]
            )
        what = f"the model expects, and the ledger shows: {told[0]}" if told else "the model never answers so"
        runs, attempts = ("\n  ".join(map(repr, found.items())) for found in (self.model.runs, self.model.attempts))
        raise AssertionError(f"{happened}\n{what}\nbefore:\n  {runs}\n  {attempts}")

    def _op(self, kind: str, pick: int, other: int) -> Op | None:
        """Return an operation that makes sense now, if there is one of this kind."""
        unfinished = [run_id for run_id, run in self.model.runs.items() if run.state not in FINAL]
        if kind == "trigger":
            key = (None, None, "a", "b")[pick % 4]
            return Op(kind, (key,)) if len(unfinished) < _MOST_RUNS else None
        if kind == "claim":
            return Op(kind)
        if kind == "cancel":
            runs = list(self.model.runs)[-_MOST_RUNS:]
            return Op(kind, (runs[pick % len(runs)],)) if runs and other < 4 else None
        if not self.model.attempts:
            return None
        attempt_id, _ = writer = self._attempt(pick)
        run = self.model.runs[self.model.attempts[attempt_id].run]
        if kind in ("claim_again", "lose"):
            return Op(kind, (attempt_id,)) if other < 4 else None
        if kind in ("heartbeat", "complete", "release"):
            return Op(kind, writer)
        if kind == "fail":
            return Op(kind, (*writer, _FAILURES[other % 4]))
        if run.ends_as is not None:  # code that undoes something knows nothing but that
            key = f"compensate/{run.left[0]}" if run.left else "compensate/u0"
            return Op("save", (*writer, key, Step("succeeded"))) if kind == "save" and run.left else None
        if kind == "suspend":
            return Op(kind, (*writer, frozenset(key for key in run.steps if key[0] in "wec")))
        return self._of_code(kind, writer, other)

    def _of_code(self, kind: str, writer: tuple[str, int], other: int) -> Op:
        """Return what running code does."""
        if kind == "wait" and other % 2:
            due = self.clock.now() + timedelta(hours=1) if other == 1 else None
            return Op(kind, (*writer, f"e{other % 3}", Step("waiting", event=("paid", "sent")[other % 3 % 2], due=due)))
        if kind == "wait":
            due = self.clock.now() + timedelta(seconds=(10, 3600)[other % 4 // 2])
            return Op(kind, (*writer, f"w{other % 3}", Step("waiting", due=due)))
        if kind == "start_child":
            return Op(kind, (*writer, f"c{other % 2}", other > 5))
        if kind == "undoable":
            return Op("save", (*writer, f"u{other % 2}", Step("succeeded", undoable=True)))
        state = ("running", "succeeded", "failed", "failed")[other % 4]
        return Op("save", (*writer, f"s{other // 4}", Step(state, durable=other % 4 == 3)))

    def _attempt(self, pick: int) -> tuple[str, int]:
        """Return an attempt and the secret that its runner has: most are open, some are zombies."""
        alive = [attempt_id for attempt_id, attempt in self.model.attempts.items() if attempt.open]
        zombies = [attempt_id for attempt_id, attempt in self.model.attempts.items() if not attempt.open]
        found = [*alive, *zombies[-2:]]
        attempt_id = found[pick % len(found)]
        secret = self.model.attempts[attempt_id].secret
        return attempt_id, max(0, secret - (pick == 7))


@pytest.mark.timeout(900)
def test_whatever_happens_the_ledger_is_what_the_model_says(ledger_uri: str) -> None:
    class OfThisLedger(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(ledger_uri)

    run_state_machine_as_test(
        OfThisLedger,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=_PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
