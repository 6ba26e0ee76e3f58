"""What the API server may answer, as errors whose text says what to do next.

``from_answer`` is the only place where an HTTP status becomes an error: callers never see a number.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from windlass_operator.domain.errors import WindlassError

Policy = Literal["quota", "pod-security", "rbac", "namespace-terminating", "admission"]

_DEFAULT_RETRY_AFTER: Final = 1
_LONGEST_MESSAGE: Final = 1_000
"""Characters of the server's words that are kept: a webhook may answer with a page of HTML."""


class KubeError(WindlassError):
    """The API server answered something that has no class of its own."""

    code, http_status = "KubernetesError", 502


class KubeConfigError(WindlassError):
    """The process finds no API server, or cannot read how to reach it."""

    code = "KubernetesConfigInvalid"


class KubeUnavailableError(KubeError):
    """The API server cannot be reached, is overloaded, or fails. The same call may succeed later.

    A write may or may not have happened: callers look again instead of assuming either.
    """

    code, http_status, retryable, retry_after = "KubernetesUnavailable", 503, True, _DEFAULT_RETRY_AFTER

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        if retry_after is not None:
            self.retry_after = max(1, retry_after)


class AlreadyExistsError(KubeError):
    """An object with that name exists. For a name that we derived it is ours: read it instead of making a twin."""

    code, http_status = "AlreadyExists", 409


class KubeConflictError(KubeError):
    """Somebody else wrote first, or the object is another one by now. Read again and decide again."""

    code, http_status, retryable = "KubernetesConflict", 409, True


class KubeNotFoundError(KubeError):
    """The collection or the namespace is not there: the resource definitions are missing, or the namespace is gone."""

    code, http_status = "KubernetesNotFound", 404


class KubeInvalidError(KubeError):
    """The API server refuses the object as it is. The same write will be refused again."""

    code, http_status = "KubernetesInvalid", 422


class ForbiddenByPolicyError(KubeError):
    """Admission or authorization refuses the call; the message is the server's own.

    Attributes:
        policy: Who refused: a quota (may pass later), the namespace's Pod Security level, RBAC, a namespace that is
            being deleted, or another admission policy.
    """

    code, http_status = "ForbiddenByPolicy", 403

    def __init__(self, message: str, *, policy: Policy) -> None:
        super().__init__(message, hint=_HINTS[policy])
        self.policy = policy
        # Quota is given back when other pods end; everything else waits for a person.
        self.retryable = policy == "quota"


_HINTS: Final[Mapping[Policy, str]] = {
    "quota": "Wait for other pods to end, lower spec.resources of the Task, or raise the namespace's ResourceQuota.",
    "pod-security": "Change spec.podTemplate of the Task so that the pod meets the namespace's Pod Security level.",
    "rbac": "Grant the permission: the chart's Roles cover every namespace that `namespaces` lists.",
    "namespace-terminating": "The namespace is being deleted; nothing can be created in it.",
    "admission": "An admission policy or webhook of the cluster refuses this; its owner can tell why.",
}


def from_answer(status: int, headers: Mapping[str, str], body: bytes, *, what: str) -> KubeError:
    """Return the error that an unsuccessful answer stands for.

    Args:
        status: HTTP status, 300 or more.
        headers: Of the answer; names in any case if the mapping is a multidict.
        body: A ``Status`` object as JSON, or whatever a proxy in between wrote.
        what: What was tried, for the message: "create Pod shop/order-1".
    """
    answer = _status_object(body)
    reason = str(answer.get("reason") or "")
    said = str(answer.get("message") or body[:_LONGEST_MESSAGE].decode(errors="replace"))[:_LONGEST_MESSAGE]
    text = f"Cannot {what}: {said or f'HTTP {status}'}"
    if status == 401:
        # A rotated service-account token is read from its file within a minute, so this may heal by itself.
        return KubeUnavailableError(f"{text} (the API server does not accept this process's credential)")
    if status == 403:
        return ForbiddenByPolicyError(text, policy=_policy(answer, said))
    if status == 404:
        return KubeNotFoundError(text, hint="Check that the namespace exists and that Windlass's CRDs are installed.")
    if status == 409:
        # A quota that is updated by two creates at once also answers 409, with reason Conflict: not our twin.
        return AlreadyExistsError(text) if reason == "AlreadyExists" else KubeConflictError(text)
    if status in (408, 429) or status >= 500:
        return KubeUnavailableError(text, retry_after=_retry_after(headers, answer))
    if 400 <= status < 500:
        return KubeInvalidError(text, field=_first_field(answer))
    return KubeError(text)


def expired_continue(body: bytes) -> str | None:
    """Return the token of a 410 with which the list goes on from the next name, at a newer revision."""
    metadata = _status_object(body).get("metadata")
    token = metadata.get("continue") if isinstance(metadata, dict) else None
    return token if isinstance(token, str) and token else None


def is_absence(body: bytes) -> bool:
    """Return whether a 404 says that the object is not there.

    The answer of a path that the server does not know (the resource definition is not installed) or of a proxy is a 404
    too, and must never be read as "the Run was deleted".
    """
    answer = _status_object(body)
    return answer.get("kind") == "Status" and answer.get("reason") == "NotFound" and _names_an_object(answer)


def _names_an_object(answer: Mapping[str, Any]) -> bool:
    details = answer.get("details")
    return isinstance(details, dict) and bool(details.get("name"))


def _policy(answer: Mapping[str, Any], said: str) -> Policy:
    if any(cause.get("reason") == "NamespaceTerminating" for cause in _causes(answer)):
        return "namespace-terminating"
    if "exceeded quota" in said or "failed quota" in said:
        return "quota"
    if "violates PodSecurity" in said:
        return "pod-security"
    if " cannot " in said and "User " in said:
        return "rbac"
    return "admission"


def _retry_after(headers: Mapping[str, str], answer: Mapping[str, Any]) -> int | None:
    details = answer.get("details")
    seconds: Any = headers.get("Retry-After")
    if seconds is None and isinstance(details, dict):
        seconds = details.get("retryAfterSeconds")
    try:
        # A date instead of seconds is legal HTTP, but no API server sends it.
        return min(60, math.ceil(float(seconds)))
    except (TypeError, ValueError, OverflowError):
        return None


def _first_field(answer: Mapping[str, Any]) -> str | None:
    return next((str(cause["field"]) for cause in _causes(answer) if cause.get("field")), None)


def _causes(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    details = answer.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    return [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
