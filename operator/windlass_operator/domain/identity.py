"""Who calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Who a token belongs to, as the API server vouches.

    Attributes:
        username: ``system:serviceaccount:NAMESPACE:NAME`` for a service account.
        uid: Of the user or service account.
        groups: Groups of the user.
        extra: Everything else; goes unchanged into an access review.
        audiences: Those of the audiences asked for that the token is meant for.
        pod_name: The pod that the token is bound to, if it is.
        pod_uid: UID of that pod.
    """

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audiences: tuple[str, ...] = ()
    pod_name: str | None = None
    pod_uid: str | None = None

    @property
    def service_account_namespace(self) -> str | None:
        """Namespace of the service account, or None for anybody else."""
        parts = self.username.split(":")
        return parts[2] if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"] else None
