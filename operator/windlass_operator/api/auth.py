"""Who calls the public API and what they may do: Kubernetes answers both questions, we only remember for a moment.

A token must be meant for us (audience ``windlass``): one that was made for the API server would give whoever runs this
process its bearer's whole power over the cluster.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from windlass_operator.domain.errors import ForbiddenError, UnauthorizedError, WindlassError
from windlass_operator.domain.identity import TokenIdentity
from windlass_operator.domain.ids import token_hash
from windlass_operator.resources.names import GROUP

AUDIENCE: Final = "windlass"
_SECONDS: Final = 10.0
"""How long an answer is remembered: a permission that was taken away still works for that long."""
_ENTRIES: Final = 10_000

_ROLES: Final = {
    "get": "windlass-view",
    "list": "windlass-view",
    "create": "windlass-edit",
    "patch": "windlass-edit",
    "update": "windlass-approve",
}

_AT_ONCE: Final = 32
"""Questions to Kubernetes under way at once: a flood of unknown tokens must not become a flood at the API server."""
_TIMEOUT: Final = 10.0

K = TypeVar("K")
V = TypeVar("V")


class AuthorizationUnavailableError(WindlassError):
    """Kubernetes does not answer who somebody is or what they may do. Neither a yes nor a no is made of that."""

    code, http_status, retryable, retry_after = "AuthorizationUnavailable", 503, True, 2

    def __init__(self, why: str) -> None:
        super().__init__(f"Kubernetes does not answer who may do this: {why[:300]}", hint="Repeat the request.")


class Reviews(Protocol):
    """What we ask Kubernetes."""

    async def token_review(self, token: str, audiences: list[str]) -> TokenIdentity | None:
        """Whose token is this?"""
        ...

    async def allowed(
        self, who: TokenIdentity, verb: str, resource: str, subresource: str, namespace: str, name: str
    ) -> bool:
        """May they?"""
        ...


class Remembered(Generic[K, V]):
    """Answers of Kubernetes, for some seconds and up to a number. Who asks what is being asked waits for that answer.

    Args:
        seconds: How long an answer is good for, from when it was asked for.
        entries: How many are kept; beyond that the oldest goes.
    """

    def __init__(self, seconds: float = _SECONDS, entries: int = _ENTRIES) -> None:
        self._seconds = seconds
        self._limit = entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Return what is remembered, or ask. An error is everybody's who waits, and is not remembered."""
        entry = self._entries.get(key)
        if entry and entry[0] > time.monotonic():
            return entry[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = asking
            asking.add_done_callback(lambda task: self._asked(key, task))
        # Shielded: one caller who hangs up must not take the answer from the others.
        return await asyncio.shield(asking)

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        good_until = time.monotonic() + self._seconds
        value = await ask()
        self._entries[key] = (good_until, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return value

    def _asked(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has gone


class Authorizer:
    """Decides on every public request; denies unless Kubernetes says yes.

    Args:
        reviews: Kubernetes.
        namespaces: The listed namespaces; empty for the whole cluster.
    """

    def __init__(self, reviews: Reviews, *, namespaces: tuple[str, ...] = ()) -> None:
        self._reviews = reviews
        self._namespaces = frozenset(namespaces)
        self._identities: Remembered[bytes, TokenIdentity | None] = Remembered()
        self._decisions: Remembered[tuple[object, ...], bool] = Remembered()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def identify(self, token: str) -> TokenIdentity:
        """Return whose token this is.

        Raises:
            UnauthorizedError: Nobody vouches for it.
            AuthorizationUnavailableError: Kubernetes does not answer.
        """

        async def ask() -> TokenIdentity | None:
            return await self._asked(lambda: self._reviews.token_review(token, [AUDIENCE]))

        identity = await self._identities.get(token_hash(token), ask)
        if identity is None:
            raise UnauthorizedError(
                "The token is not valid for this API.",
                hint=f"Make one with `kubectl create token SERVICEACCOUNT --audience={AUDIENCE}`.",
            )
        return identity

    async def require(
        self, who: TokenIdentity, verb: str, resource: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> None:
        """Require a permission.

        Raises:
            ForbiddenError: It is not granted; the text names what to grant.
            AuthorizationUnavailableError: Kubernetes does not answer.
        """
        if self._namespaces and namespace not in self._namespaces:
            raise ForbiddenError(
                f"Windlass does not serve namespace {namespace!r}.",
                hint="Add it to `namespaces` of the chart's values.",
            )
        extra = tuple(sorted((key, tuple(values)) for key, values in who.extra.items())) if who.extra else ()
        key = (who.username, who.uid, who.groups, extra, verb, resource, subresource, namespace, name)

        async def ask() -> bool:
            return await self._asked(lambda: self._reviews.allowed(who, verb, resource, subresource, namespace, name))

        if not await self._decisions.get(key, ask):
            what = f"{resource}/{subresource}" if subresource else resource
            raise ForbiddenError(
                f"{who.username} may not {verb} {what}.{GROUP} in namespace {namespace!r}.",
                hint=f"Bind a Role with the verb {verb!r} on {what}.{GROUP}, such as the ClusterRole {_ROLES[verb]}.",
            )

    async def _asked(self, question: Callable[[], Awaitable[V]]) -> V:
        """Ask Kubernetes. Whatever it answers but yes and no, our own lack of permission included, is a 503."""
        try:
            async with asyncio.timeout(_TIMEOUT), self._slots:
                return await question()
        except TimeoutError:
            raise AuthorizationUnavailableError(f"no answer within {_TIMEOUT:g} s.") from None
        except WindlassError as error:
            raise AuthorizationUnavailableError(error.message) from error

    async def pod_of(self, token: str) -> tuple[str, str]:
        """Return name and UID of the pod that a projected token is bound to.

        Raises:
            UnauthorizedError: It is bound to none.
        """
        identity = await self.identify(token)
        if identity.pod_name is None or identity.pod_uid is None:
            raise UnauthorizedError("The token is not bound to a pod.")
        return identity.pod_name, identity.pod_uid
