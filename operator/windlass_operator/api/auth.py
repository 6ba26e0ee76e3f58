"""Who calls the public API and what they may do: Kubernetes answers both questions, we only remember for a moment.

A token must be meant for us (audience ``windlass``): one that was made for the API server would give whoever runs this
process its bearer's whole power over the cluster.
"""

import time
from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from windlass_operator.domain.errors import ForbiddenError, UnauthorizedError
from windlass_operator.domain.ids import token_hash
from windlass_operator.kube.client import TokenIdentity
from windlass_operator.resources.names import GROUP

AUDIENCE: Final = "windlass"
_SECONDS: Final = 10.0
"""How long an answer is remembered: a permission that was taken away still works for that long."""
_ENTRIES: Final = 10_000

_ROLES: Final = {"get": "windlass-view", "list": "windlass-view", "create": "windlass-edit", "patch": "windlass-edit"}

K = TypeVar("K")
V = TypeVar("V")


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
    """A bounded cache whose entries last for some seconds."""

    def __init__(self, seconds: float = _SECONDS, entries: int = _ENTRIES) -> None:
        self._seconds = seconds
        self._limit = entries
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return what is remembered, or None."""
        entry = self._entries.get(key)
        return entry[1] if entry and entry[0] > time.monotonic() else None

    def put(self, key: K, value: V) -> V:
        """Remember a value and return it."""
        self._entries[key] = (time.monotonic() + self._seconds, value)
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return value


class Authorizer:
    """Decides on every public request; denies unless Kubernetes says yes."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews
        self._identities: Remembered[bytes, TokenIdentity] = Remembered()
        self._decisions: Remembered[tuple[str, ...], bool] = Remembered()

    async def identify(self, token: str) -> TokenIdentity:
        """Return whose token this is.

        Raises:
            UnauthorizedError: Nobody vouches for it.
        """
        key = token_hash(token)
        known = self._identities.get(key)
        if known is not None:
            return known
        identity = await self._reviews.token_review(token, [AUDIENCE])
        if identity is None:
            raise UnauthorizedError(
                "The token is not valid for this API. Make one with "
                f"`kubectl create token SERVICEACCOUNT --audience={AUDIENCE}`."
            )
        return self._identities.put(key, identity)

    async def require(
        self, who: TokenIdentity, verb: str, resource: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> None:
        """Require a permission.

        Raises:
            ForbiddenError: It is not granted; the text names what to grant.
        """
        key = (who.username, *who.groups, "/", verb, resource, subresource, namespace, name)
        allowed = self._decisions.get(key)
        if allowed is None:
            answer = await self._reviews.allowed(who, verb, resource, subresource, namespace, name)
            allowed = self._decisions.put(key, answer)
        if not allowed:
            what = f"{resource}/{subresource}" if subresource else resource
            raise ForbiddenError(
                f"{who.username} may not {verb} {what}.{GROUP} in namespace {namespace!r}.",
                hint=f"Bind a Role with the verb {verb!r} on {what}.{GROUP}, such as the ClusterRole {_ROLES[verb]}.",
            )

    async def pod_of(self, token: str) -> tuple[str, str]:
        """Return name and UID of the pod that a projected token is bound to.

        Raises:
            UnauthorizedError: It is bound to none.
        """
        identity = await self.identify(token)
        if identity.pod_name is None or identity.pod_uid is None:
            raise UnauthorizedError("The token is not bound to a pod.")
        return identity.pod_name, identity.pod_uid
