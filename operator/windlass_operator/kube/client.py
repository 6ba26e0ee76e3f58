"""The client of the API server: plain dicts in and out, our own errors, bounded calls.

Used by the services for everything but watching, which is kopf's. Reads are retried a little; writes are not, because
every caller is level-triggered and looks again, which also answers whether a write that timed out took place.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from windlass_operator.domain.identity import TokenIdentity
from windlass_operator.kube import errors
from windlass_operator.kube.errors import KubeConflictError, KubeNotFoundError, KubeUnavailableError
from windlass_operator.kube.guard import GuardedTransport
from windlass_operator.kube.kinds import (
    ACCESS_REVIEWS,
    LOCAL_ACCESS_REVIEWS,
    PODS,
    SELF_ACCESS_REVIEWS,
    TOKEN_REVIEWS,
    Kind,
)
from windlass_operator.kube.pages import continue_token, items_of
from windlass_operator.kube.permissions import Permission
from windlass_operator.kube.transport import Answer, Sender, Transport, find_configuration, json_body
from windlass_operator.resources.names import GROUP

Object = dict[str, Any]

READ_TRIES: Final = 3
"""Tries of a read. Enough for one lost connection and one busy moment; a longer outage is the caller's to wait out."""

_LONGEST_PAUSE: Final = 1.0
_MERGE_PATCH: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_LOG_BYTES: Final = 1024 * 1024
"""Of a pod's log that are fetched at most: it explains an end, it is not the log store."""


class KubeClient:
    """One process's access to the API server, over one shared session.

    Args:
        transport: Sends the calls.
        local_reviews: Ask ``LocalSubjectAccessReview`` inside the namespace instead of the cluster-wide kind: an
            installation that lists its namespaces holds no cluster-wide permission for reviews.
        pause: Waits between tries of a read; a test passes its own.
    """

    def __init__(
        self,
        transport: Sender,
        *,
        local_reviews: bool = False,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._local_reviews = local_reviews
        self._pause = pause

    @classmethod
    async def connect(cls, *, local_reviews: bool = False) -> "KubeClient":
        """Return a client for the cluster that ``KUBECONFIG`` or the pod's service account names. Sends nothing yet.

        Raises:
            KubeConfigError: Neither is usable.
        """
        return cls(Transport(await find_configuration()), local_reviews=local_reviews)

    def guarded(self, guard: Callable[[], None]) -> "KubeClient":
        """Return a client over the same connections that writes only while ``guard`` does not raise."""
        transport = GuardedTransport(self._transport, guard)
        return KubeClient(transport, local_reviews=self._local_reviews, pause=self._pause)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """Return an object, or None where the API server says that it does not exist.

        None means certainty. A server that does not know the kind, or a proxy's 404, raises instead.

        Raises:
            KubeNotFoundError: The kind is not installed.
            KubeUnavailableError: No usable answer after a few tries.
            ForbiddenByPolicyError: We may not read it.
        """
        answer = await self._read("GET", kind.path(namespace, name), what=f"get {_named(kind, namespace, name)}")
        return None if answer is None else _as_object(answer)

    async def get_raw(self, kind: Kind, namespace: str | None, name: str) -> bytes | None:
        """Return the same as the JSON that it came as. Errors are those of :meth:`get`."""
        answer = await self._read("GET", kind.path(namespace, name), what=f"get {_named(kind, namespace, name)}")
        return None if answer is None else answer.body

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = 500,
    ) -> AsyncIterator[Object]:
        """Yield the objects of a namespace, or of the cluster where it is None, in chunks of ``limit``.

        A long list may outlive its snapshot (410). It then goes on from the next name at a newer revision, or, where
        the server offers no such token, starts again: an object may come twice, and one created meanwhile may be
        missing. So absence from a list is a hint, and only :meth:`get` is proof.

        Raises:
            KubeNotFoundError: The kind is not installed.
            KubeUnavailableError: No usable answer after a few tries.
            ForbiddenByPolicyError: We may not list.
        """
        query: dict[str, str | int] = {"limit": limit}
        query |= {"labelSelector": label_selector} if label_selector else {}
        query |= {"fieldSelector": field_selector} if field_selector else {}
        async for answer in self._pages(kind, namespace, query):
            for item in _as_object(answer).get("items") or ():
                yield item

    async def scan(self, kind: Kind, namespace: str | None, *, limit: int = 500) -> AsyncIterator[bytes]:
        """Yield objects as :meth:`list` does, each as the JSON that it came as, for who needs little of them.

        Raises:
            KubeNotFoundError: The kind is not installed.
            KubeUnavailableError: No usable answer after a few tries.
            ForbiddenByPolicyError: We may not list.
        """
        async for answer in self._pages(kind, namespace, {"limit": limit}):
            for item in items_of(answer.body):
                yield item

    async def _pages(self, kind: Kind, namespace: str | None, query: dict[str, str | int]) -> AsyncIterator[Answer]:
        path, what = kind.path(namespace), f"list {kind.plural} in {namespace or 'the cluster'}"
        while True:
            answer = await self._retried("GET", path, what=what, query=query, also_accept=(410,))
            if answer.status == 410:
                # Without a continue token there is no snapshot to lose: then 410 would come for ever.
                if not query.pop("continue", None):
                    raise errors.from_answer(503, answer.headers, answer.body, what=what)
                token = errors.expired_continue(answer.body)
            else:
                yield answer
                token = continue_token(answer.body)
                if not token:
                    return
            if token:
                query["continue"] = token

    async def create(self, kind: Kind, namespace: str | None, body: Mapping[str, Any]) -> Object:
        """Create an object and return it as the server stored it.

        Raises:
            AlreadyExistsError: The name is taken.
            ForbiddenByPolicyError: Quota, Pod Security, RBAC or another policy refuses; ``policy`` tells which.
            KubeInvalidError: The object is not valid.
            KubeConflictError: A quota was being updated; try again.
            KubeNotFoundError: The namespace or the kind is not there.
            KubeUnavailableError: No usable answer. The object may exist.
        """
        name = str((body.get("metadata") or {}).get("name") or "")
        what = f"create {_named(kind, namespace, name)}"
        full = {"apiVersion": kind.api_version, "kind": kind.kind, **body}
        return _as_object(_checked(await self._transport.call("POST", kind.path(namespace), body=full), what))

    async def patch_status(
        self, kind: Kind, namespace: str | None, name: str, status: Mapping[str, Any], *, uid: str
    ) -> bool:
        """Make the status of exactly this object what is given, and return whether that object is still there.

        A JSON patch that tests the UID first. A merge patch with ``metadata.uid`` would be simpler and is no
        precondition here: on the status subresource of a custom resource the server puts the stored metadata back
        before it compares, so the patch would reach a new object that took the old one's name. Fields that are None
        are left out, and what the old status had beyond the new one goes.

        Returns:
            False when the object is gone or another one has its name.

        Raises:
            KubeInvalidError: The schema refuses the status.
            ForbiddenByPolicyError: We may not write it.
            KubeUnavailableError: No usable answer.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": _without_none(status)},
        ]
        path, what = kind.path(namespace, name, "status"), f"patch the status of {_named(kind, namespace, name)}"
        answer = await self._transport.call("PATCH", path, body=patch, content_type=_JSON_PATCH)
        if answer.status == 404 and errors.is_absence(answer.body):
            return False
        if answer.status == 422 and not await self._is_still(kind, namespace, name, uid):
            # The failed test has no words of its own: the server calls it an error in the request, like any other.
            return False
        _checked(answer, what)
        return True

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any]) -> Object | None:
        """Merge a patch into an object and return the result, or None where the object does not exist.

        With ``metadata.resourceVersion`` in the body the patch applies to that version only.

        Raises:
            KubeConflictError: The object has changed since that version.
            KubeInvalidError: The result is not valid.
            KubeUnavailableError: No usable answer.
        """
        what = f"patch {_named(kind, namespace, name)}"
        answer = await self._transport.call("PATCH", kind.path(namespace, name), body=body, content_type=_MERGE_PATCH)
        if answer.status == 404 and errors.is_absence(answer.body):
            return None
        return _as_object(_checked(answer, what))

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, *, uid: str | None, grace_seconds: int | None = None
    ) -> bool:
        """Ask for an object's deletion, and return whether that object was there to delete.

        Args:
            kind: Of the object.
            namespace: Of the object.
            name: Of the object.
            uid: Delete only the object with this UID: its name may belong to a successor by now. None takes any.
            grace_seconds: Time for the pod to end by itself; None leaves the pod's own.

        Raises:
            ForbiddenByPolicyError: We may not.
            KubeUnavailableError: No usable answer.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        answer = await self._transport.call("DELETE", kind.path(namespace, name), body=options)
        if (answer.status == 404 and errors.is_absence(answer.body)) or (answer.status == 409 and uid is not None):
            return False
        _checked(answer, f"delete {_named(kind, namespace, name)}")
        return True

    async def pod_log(self, namespace: str, name: str, *, container: str, tail: int) -> str:
        """Return the last lines of a container's log; empty where the pod is gone or has not started.

        Raises:
            KubeUnavailableError: The API server or the node does not answer.
        """
        query: dict[str, str | int] = {"container": container, "tailLines": tail, "limitBytes": _LOG_BYTES}
        what = f"read the log of {_named(PODS, namespace, name)}"
        path = PODS.path(namespace, name, "log")
        # 400 is the kubelet's "container is waiting to start".
        answer = await self._retried("GET", path, what=what, query=query, also_accept=(400, 404))
        return answer.body.decode(errors="replace") if answer.ok else ""

    async def token_review(self, token: str, audiences: Sequence[str]) -> TokenIdentity | None:
        """Ask whose token this is, and return None where nobody vouches for it with one of the audiences.

        Raises:
            KubeUnavailableError: No usable answer.
        """
        spec = {"token": token, "audiences": [*audiences]}
        status = await self._review(TOKEN_REVIEWS, None, spec, what="review a token")
        confirmed = tuple(a for a in status.get("audiences") or () if a in audiences)
        # An authenticator that knows no audiences leaves them out: its yes does not cover ours.
        if status.get("authenticated") is not True or not confirmed:
            return None
        user = status.get("user") or {}
        extra = {str(k): tuple(v) for k, v in (user.get("extra") or {}).items()}
        return TokenIdentity(
            username=str(user.get("username") or ""),
            uid=str(user.get("uid") or ""),
            groups=tuple(user.get("groups") or ()),
            extra=extra,
            audiences=confirmed,
            pod_name=next(iter(extra.get("authentication.kubernetes.io/pod-name", ())), None),
            pod_uid=next(iter(extra.get("authentication.kubernetes.io/pod-uid", ())), None),
        )

    async def access_review(
        self,
        *,
        user: str,
        groups: Sequence[str],
        verb: str,
        resource: str,
        namespace: str | None,
        group: str = GROUP,
        uid: str = "",
        extra: Mapping[str, Sequence[str]] | None = None,
        subresource: str = "",
        name: str = "",
    ) -> bool:
        """Ask whether a user may do something. Anything but a clear yes is a no.

        Raises:
            KubeUnavailableError: No usable answer; the caller denies, and says why.
        """
        if self._local_reviews and namespace is None:
            # Only a cluster-wide review can answer for the whole cluster, and this installation may not ask one.
            return False
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
        attributes["namespace"] = namespace or ""
        spec = {
            "user": user,
            "groups": [*groups],
            "uid": uid,
            "extra": {k: [*v] for k, v in (extra or {}).items()},
            "resourceAttributes": {k: v for k, v in attributes.items() if v},
        }
        kind = LOCAL_ACCESS_REVIEWS if self._local_reviews else ACCESS_REVIEWS
        where = namespace if self._local_reviews else None
        status = await self._review(kind, where, spec, what=f"review whether {user} may {verb} {resource}")
        return status.get("allowed") is True and status.get("denied") is not True

    async def may(self, permission: Permission) -> bool:
        """Ask whether this process itself may do something. Whoever is authenticated may ask this.

        Raises:
            KubeUnavailableError: No usable answer.
        """
        resource, _, subresource = permission.resource.partition("/")
        attributes = {"verb": permission.verb, "group": permission.group, "resource": resource}
        attributes |= {"subresource": subresource, "name": permission.name, "namespace": permission.namespace}
        spec = {"resourceAttributes": {k: v for k, v in attributes.items() if v}}
        status = await self._review(SELF_ACCESS_REVIEWS, None, spec, what=f"review whether we may {permission}")
        return status.get("allowed") is True and status.get("denied") is not True

    async def knows(self, kind: Kind, namespace: str | None) -> bool:
        """Return whether the API server serves a kind; whether we may list it does not matter.

        Raises:
            KubeUnavailableError: No usable answer.
        """
        what = f"list {kind.plural}"
        answer = await self._retried("GET", kind.path(namespace), what=what, query={"limit": 1}, also_accept=(403, 404))
        return answer.status != 404

    async def _is_still(self, kind: Kind, namespace: str | None, name: str, uid: str) -> bool:
        found = await self.get(kind, namespace, name)
        return found is not None and (found.get("metadata") or {}).get("uid") == uid

    async def _review(self, kind: Kind, namespace: str | None, spec: Object, *, what: str) -> Object:
        # A review stores nothing, so it is retried like a read.
        metadata = {"metadata": {"namespace": namespace}} if namespace else {}
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **metadata, "spec": spec}
        answer = await self._retried("POST", kind.path(namespace), what=what, body=body)
        status = _as_object(answer).get("status")
        return status if isinstance(status, dict) else {}

    async def _read(self, method: str, path: str, *, what: str) -> Answer | None:
        answer = await self._retried(method, path, what=what, also_accept=(404,))
        if answer.status != 404:
            return answer
        if errors.is_absence(answer.body):
            return None
        raise errors.from_answer(404, answer.headers, answer.body, what=what)

    async def _retried(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        also_accept: Sequence[int] = (),
    ) -> Answer:
        for tries_left in reversed(range(READ_TRIES)):
            try:
                answer = await self._transport.call(method, path, query=query, body=body)
                return answer if answer.status in also_accept else _checked(answer, what)
            except KubeUnavailableError as error:
                if not tries_left:
                    raise
                # Jitter: after an outage every process comes back at the same moment.
                await self._pause(min(error.retry_after or 0, _LONGEST_PAUSE) * random.uniform(0.2, 1))  # noqa: S311
        raise AssertionError("the last try returns or raises")


def secret_text(secret: Mapping[str, Any], key: str) -> str | None:
    """Return one value of a Secret as text, or None where it is missing or is no text."""
    try:
        return base64.b64decode((secret.get("data") or {})[key], validate=True).decode()
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def _checked(answer: Answer, what: str) -> Answer:
    if not answer.ok:
        raise errors.from_answer(answer.status, answer.headers, answer.body, what=what)
    return answer


def _as_object(answer: Answer) -> Object:
    return as_object(answer.body)


def as_object(body: bytes) -> Object:
    """Return the object that an answer is.

    Raises:
        KubeUnavailableError: It is none.
    """
    value = json_body(body)
    if not isinstance(value, dict):
        raise KubeUnavailableError(f"The API server answered with {type(value).__name__} instead of an object.")
    return value


def _without_none(status: Mapping[str, Any]) -> dict[str, Any]:
    # The top level only: a null within a user's result is a value.
    return {key: value for key, value in status.items() if value is not None}


def _named(kind: Kind, namespace: str | None, name: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"


__all__ = [
    "KubeClient",
    "KubeConflictError",
    "KubeNotFoundError",
    "KubeUnavailableError",
    "Object",
    "TokenIdentity",
    "secret_text",
]
