"""Tokens: a run makes one and gives its address away; whoever calls the address completes it, once.

The secret in the address is derived from the project's key and the token's id. So it stands neither in the ledger's
tokens nor in the run's history, which more people may read than may complete the token.
"""

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from windlass import protocol
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.ids import new_id
from windlass_operator.ledger import events, tokens, waits
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Value
from windlass_operator.ledger.tokens import Token
from windlass_operator.ledger.waits import Outcome
from windlass_operator.services import payloads
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.events import RUNS_AT_ONCE

log = structlog.get_logger()

PATH: Final = "/callbacks/v1/"
_ADDRESS: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([A-Za-z0-9_-]{43})")
_GRACE: Final = timedelta(seconds=5)
"""How long a wait outlasts its token: what was accepted in the last moment is still given to it."""
_FORGET_AT_ONCE: Final = 1000


class TokenNotFoundError(WindlassError):
    """An address that leads to no token. Whether the id or the secret is wrong is not told."""

    code, http_status = "TokenNotFound", 404

    def __init__(self) -> None:
        super().__init__("There is no token at this address.")


class TokenCompletedError(WindlassError):
    """A token that was completed with another value."""

    code, http_status = "TokenCompleted", 409

    def __init__(self) -> None:
        super().__init__("The token was completed before, with another value. The first one counts.")


class TokenEndedError(WindlassError):
    """A token whose time is over, or whose run has ended."""

    code, http_status = "TokenEnded", 410

    def __init__(self, token: Token) -> None:
        why = "Its run has ended" if token.run_ended else "Its time is over"
        super().__init__(f"{why}: the token cannot be completed any more.")


class TokenService:
    """Makes tokens, completes them, and gives their values to waits. One instance a process.

    Args:
        database: The ledger.
        attempts: Knows whose token it is that asks from within a run.
        changed: Called after each commit that changed a run.
        public_url: Address by which the outside reaches this API.
        keep: How long a token is kept after its run's end.
    """

    def __init__(
        self,
        database: Database,
        attempts: AttemptService,
        changed: Callable[[UUID], None] = lambda _: None,
        *,
        public_url: str = "http://windlass-api.windlass-system.svc:8080",
        keep: timedelta = timedelta(days=30),
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._changed = changed
        self._public_url = public_url.rstrip("/")
        self._keep = keep

    async def create(self, credential: str, request: protocol.CreateTokenRequest) -> protocol.TokenCreated:
        """Make the token of a step. A repeat returns the same one.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was made.
        """
        writer = await self._attempts.authenticate(credential)
        token_id, key = new_id(), os.urandom(32)

        async def work(connection: Connection) -> tuple[UUID, bytes]:
            project_id = await events.project_of_open(connection, writer)
            kept = await tokens.callback_key(connection, project_id, key)
            lasts = timedelta(milliseconds=request.timeout_ms)
            made = await tokens.make(
                connection, token_id, project_id=project_id, run_id=writer.run_id, key=request.key, lasts=lasts
            )
            return made, kept

        made, kept = await self._database.transaction(work)
        return protocol.TokenCreated(id=str(made), url=f"{self._public_url}{PATH}{made}.{secret_of(kept, made)}")

    async def begin(self, connection: Connection, writer: Writer, wait: protocol.Wait) -> None:
        """A wait for a token begins: it gets the value that is there, or lasts as long as the token."""
        token = await self._target(connection, writer, wait)
        outcome: Outcome | None = None
        if token is None:
            message = f"There is no token {str(wait.target)[:100]!r} in this namespace."
            failure = protocol.Failure(type="TokenNotFound", message=message, step=wait.key)
            outcome = Outcome(run_id=writer.run_id, key=wait.key, failure=failure)
        elif token.value is not None:
            outcome = Outcome(run_id=writer.run_id, key=wait.key, result=Value(text=token.value))
        elif token.expired or token.run_ended:
            message = TokenEndedError(token).message
            failure = protocol.Failure(type="WaitTimeoutError", message=message, failure_class="timeout", step=wait.key)
            outcome = Outcome(run_id=writer.run_id, key=wait.key, failure=failure)
        else:
            await tokens.end_with(connection, writer.run_id, wait.key, token.expires_at + _GRACE)
        if outcome is not None:
            await waits.settle_begun(connection, outcome)

    async def _target(self, connection: Connection, writer: Writer, wait: protocol.Wait) -> Token | None:
        try:
            token_id = UUID(wait.target or "")
        except ValueError:
            return None
        return await tokens.watch(connection, token_id, writer.run_id, wait.key)

    async def look_up(self, address: str) -> Token:
        """Return the token that the last part of an address leads to.

        Raises:
            TokenNotFoundError: None.
            TokenEndedError: It was not completed in time.
        """
        parts = _ADDRESS.fullmatch(address)
        token = None if parts is None else await tokens.find(self._database, UUID(parts[1]))
        # Compared in any case: neither the answer nor its time says whether there is such a token.
        expected = secret_of(token.callback_key, token.id) if token else secret_of(b"", UUID(int=0))
        given = parts[2] if parts else ""
        if not hmac.compare_digest(expected.encode(), given.encode()) or token is None:
            raise TokenNotFoundError
        _refuse_ended(token)
        return token

    async def complete(self, token: Token, body: bytes) -> bool:
        """Complete a token and wake who waits for it. Returns whether this is a repeat, which changes nothing.

        Args:
            token: As :meth:`look_up` returned it.
            body: JSON; nothing stands for null.

        Raises:
            PayloadInvalidError: It is not JSON that every reader accepts.
            TokenCompletedError: It was completed before with another value.
            TokenEndedError: Its time is over, or its run has ended.
        """
        value = payloads.parse(body, field="body") if body.strip() else None
        text = payloads.encoded(value, field="body", limit=protocol.BODY_LIMIT).decode()

        async def work(connection: Connection) -> bool:
            locked = await tokens.lock(connection, token.id)
            if locked is None:
                raise TokenNotFoundError
            if locked.value is not None:
                if _same(locked.value, text):
                    return True
                raise TokenCompletedError
            _refuse_ended(locked)
            await tokens.complete(connection, token.id, text)
            return False

        repeated = await self._database.transaction(work)
        try:
            await self._deliver(token.id, token.project_id, text)
        except WindlassError as error:  # it is completed; the loop tells whom it is for
            log.warning("a completed token waits to be delivered", error=error.message)
        return repeated

    async def deliver_due(self) -> timedelta | None:
        """Give values to waits that nobody has told of them. Called in a loop by every API replica."""
        for row in await tokens.undelivered(self._database):
            await self._deliver(row["id"], row["project_id"], row["value"], skip_locked=True)
        return None

    async def forget(self) -> None:
        """Delete tokens of runs that ended long ago, all of them, in batches."""
        while await tokens.forget(self._database, self._keep, limit=_FORGET_AT_ONCE) == _FORGET_AT_ONCE:
            pass

    async def _deliver(self, token_id: UUID, project_id: int, value: str, *, skip_locked: bool = False) -> None:
        after, whole = (events.NO_RUN, ""), True
        while page := await tokens.waits_for(self._database, token_id, project_id, after=after, limit=RUNS_AT_ONCE):
            after = page[-1]
            outcomes = [Outcome(run_id=run_id, key=key, result=Value(text=value)) for run_id, key in page]

            async def work(connection: Connection, outcomes: list[Outcome] = outcomes) -> list[UUID]:
                return await waits.settle(connection, outcomes, skip_locked=skip_locked)

            changed = await self._database.transaction(work)
            whole = whole and (not skip_locked or {run_id for run_id, _ in page} == set(changed))
            for run_id in changed:
                self._changed(run_id)
            if len(page) < RUNS_AT_ONCE:
                break
        if whole:
            await tokens.mark_delivered(self._database, token_id)


def secret_of(key: bytes, token_id: UUID) -> str:
    """Return the secret of a token: 256 bits, as 43 characters that stand in any URL."""
    digest = hmac.digest(key, token_id.bytes, hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _refuse_ended(token: Token) -> None:
    if token.value is None and (token.expired or token.run_ended):
        raise TokenEndedError(token)


def _same(first: str, second: str) -> bool:
    """Whether two texts are the same JSON, in whatever order its fields stand."""
    return json.dumps(json.loads(first), sort_keys=True) == json.dumps(json.loads(second), sort_keys=True)
