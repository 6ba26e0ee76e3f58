"""One attempt after the other in this process, on a transport in memory."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from windlass import protocol
from windlass.errors import ProtocolError
from windlass.execution import Finished, execute


def is_history(step: protocol.Step) -> bool:
    """Return whether later attempts get what came of a step."""
    return step.state == "succeeded" or (step.state == "failed" and step.durable)


class History:
    """A transport that keeps what it is given, and hands it to the next attempt."""

    def __init__(self) -> None:
        self.steps: dict[str, protocol.Step] = {}
        self.blobs: dict[str, bytes] = {}
        self.pages: list[protocol.Step] = []
        self.run_id = "r"
        self.waits: dict[str, protocol.Wait] = {}
        self.checkpoint = protocol.CheckpointRequest(n=1)
        self.added_ms: list[int] = []
        self.children: dict[str, protocol.Child] = {}
        self.started_in: list[int] = []
        """How many children each request asked for."""
        self.refused: set[str] = set()
        """Tasks that are not there."""
        self.together: list[list[str]] = []
        """Groups of the last suspension that failures do not wake."""
        self.suspended: list[tuple[list[str], list[list[str]]]] = []
        """What each suspension waited for, and in which groups."""
        self.sent: list[protocol.SendEventRequest] = []
        self.tokens: list[protocol.CreateTokenRequest] = []
        self.unprotected = 0
        """How often it is said that the pod is not protected yet."""
        self.asked = 0

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        for one in steps:
            before = self.steps.get(one.key)
            if before is None or not is_history(before) or (one.replaces and not before.replaces):
                self.steps[one.key] = one

    def load_steps(self, after: str) -> protocol.StepsPage:
        return protocol.StepsPage(steps=self.pages)

    def begin_waits(self, waits: Sequence[protocol.Wait], keys: Sequence[str]) -> list[protocol.Step]:
        for wait in waits:
            if not self._over(wait.key):
                self.waits.setdefault(wait.key, wait)
        return [self.steps[key] for key in [*(wait.key for wait in waits), *keys] if self._over(key)]

    def _over(self, key: str) -> bool:
        return key in self.steps and is_history(self.steps[key])

    def suspend(
        self, waits: Sequence[str], groups: Sequence[Sequence[str]], together: Sequence[Sequence[str]] = ()
    ) -> protocol.SuspendAnswer:
        over = [self.steps[key] for key in waits if self._over(key)]
        if over:
            return protocol.SuspendAnswer(suspended=False, over=over)
        self.suspended.append((sorted(waits), sorted(sorted(group) for group in groups)))
        self.together = [sorted(group) for group in together]
        return protocol.SuspendAnswer(suspended=True)

    def start_children(self, children: Sequence[protocol.Child]) -> list[str]:
        self.started_in.append(len(children))
        for child in children:
            if child.task in self.refused:
                raise ProtocolError("TaskNotFound", f"Task {child.task!r} is not there.", "children[0].task")
        for child in children:
            if self._over(child.key) or child.key in self.waits:
                continue
            self.children[child.key] = child
            if child.awaited:
                self.waits[child.key] = protocol.Wait(
                    key=child.key, name=child.name, args_hash=child.args_hash, kind="run", target=f"id-{child.key}"
                )
            else:
                self.steps[child.key] = protocol.Step(
                    key=child.key, name=child.name, args_hash=child.args_hash, state="succeeded", kind="run",
                    run_id=f"id-{child.key}", result=msgspec.Raw(b'"id"'),
                )  # fmt: skip
        return [f"id-{child.key}" for child in children]

    def end_wait(self, key: str, result: Any = None, *, failure: protocol.Failure | None = None) -> None:
        """Let a wait be over."""
        wait = self.waits.pop(key)
        self.steps[key] = protocol.Step(
            key=key, name=wait.name, args_hash=wait.args_hash, kind=wait.kind, error=failure,
            state="failed" if failure else "succeeded", durable=failure is not None,
            result=protocol.ABSENT if failure else msgspec.Raw(json.dumps(result).encode()),
            run_id=wait.target if wait.kind == "run" else None,
        )  # fmt: skip

    def load_compensations(self) -> protocol.CompensationsPage:
        return protocol.CompensationsPage(compensations=self.to_undo())

    def to_undo(self) -> list[protocol.Compensation]:
        """Return what the ledger would: steps with a compensation that is not finished, newest first."""
        return [
            protocol.Compensation(
                key=s.key, name=s.name, compensation=s.compensation, result=s.result, result_ref=s.result_ref
            )
            for s in reversed(self.steps.values())
            if s.compensation and s.state == "succeeded" and not self._undone(s.key)
        ]

    def _undone(self, key: str) -> bool:
        undone = self.steps.get(f"compensate/{key}")
        return undone is not None and undone.state == "succeeded"

    def undo(self, function: Any, *, page: int = 1000, number: int = 2) -> Finished:
        """Run an attempt that undoes the steps of this history, the first ``page`` of them in the claim."""
        left = self.to_undo()
        attempt = protocol.ClaimedAttempt(
            attempt_id="a", token="a.b", run_id="r", number=number, max_attempts=3, task="t", namespace="n",
            entrypoint="m:f", lease_ms=1, heartbeat_ms=1, compensating=True, compensate=left[:page],
            more_compensations=len(left) > page,
        )  # fmt: skip
        return execute(function, attempt, self)

    def save_checkpoint(self, request: protocol.CheckpointRequest) -> None:
        self.checkpoint = request

    def extend_timeout(self, request: protocol.ExtendRequest) -> None:
        self.added_ms.append(request.added_ms)

    def pod_is_protected(self) -> bool:
        self.asked += 1
        return self.asked > self.unprotected

    def send_event(self, request: protocol.SendEventRequest) -> protocol.EventAccepted:
        self.sent.append(request)
        return protocol.EventAccepted(id=request.id)

    def create_token(self, request: protocol.CreateTokenRequest) -> protocol.TokenCreated:
        self.tokens.append(request)
        return protocol.TokenCreated(id=f"id-of-{request.key}", url=f"http://api/{request.key}.secret")

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return protocol.BlobRef(sha256=digest, size=len(data))

    def get_blob(self, ref: protocol.BlobRef) -> bytes:
        return self.blobs[ref.sha256]

    def run(
        self, function: Any, payload: Any = None, *, number: int = 1, paged: bool = False, code: str | None = None
    ) -> Finished:
        """Run an attempt with this history. ``code`` is the text that its code id is made from."""
        done = [s for s in self.steps.values() if is_history(s)]
        done += [
            protocol.Step(key=w.key, name=w.name, args_hash=w.args_hash, state="waiting", kind=w.kind)
            for w in self.waits.values()
            if "~try" in w.key
        ]
        self.pages = done if paged else []
        attempt = protocol.ClaimedAttempt(
            attempt_id="a", token="a.b", run_id=self.run_id, number=number, max_attempts=3, task="t", namespace="n",
            entrypoint="m:f", lease_ms=1, heartbeat_ms=1, payload=msgspec.Raw(json.dumps(payload).encode()),
            steps=[] if paged else done, next_steps="0" if paged else None, source=code,
            checkpoint=self.checkpoint.state, checkpoint_ref=self.checkpoint.state_ref,
        )  # fmt: skip
        finished = execute(function, attempt, self)
        for key in finished.fail.rerun if finished.fail is not None else ():
            if key in self.steps:
                self.steps[key].durable = False
            for pause in [one for one in self.steps if one.startswith(f"{key}~try")]:
                del self.steps[pause]
        return finished

    def value(self, function: Any, payload: Any = None, **options: Any) -> Any:
        """Run an attempt that must succeed and return its result."""
        finished = self.run(function, payload, **options)
        assert finished.complete is not None, finished.fail
        return json.loads(bytes(finished.complete.result))

    def waits_for(self, function: Any, payload: Any = None, **options: Any) -> list[str]:
        """Run an attempt that must suspend and return the keys that it waits for."""
        finished = self.run(function, payload, **options)
        assert finished.suspended, finished
        return self.suspended[-1][0]

    def failure(self, function: Any, payload: Any = None, **options: Any) -> protocol.Failure:
        """Run an attempt that must fail and return why it did."""
        finished = self.run(function, payload, **options)
        assert finished.fail is not None, finished.complete
        return finished.fail.failure
