"""What every public route does first, before its parameters are looked at: who is it, and may they?"""

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from fastapi import Request

from windlass_operator.api.auth import Authorizer
from windlass_operator.api.runtime import bearer
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.identity import TokenIdentity
from windlass_operator.domain.project import Project

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Permit = Callable[..., Awaitable[None]]


class NamespaceNotFoundError(WindlassError):
    """A name that no namespace can have. Nobody asks Kubernetes about it."""

    code, http_status = "NamespaceNotFound", 404

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no namespace {name[:63]!r}.", field="namespace")


class Namespaces(Protocol):
    """Finds the project of a namespace."""

    async def project(self, namespace: str) -> Project:
        """Return the project, by the namespace's UID as it is now."""
        ...


class Permits:
    """Asks Kubernetes about the caller of a route.

    Args:
        authorizer: Decides.
        namespaces: Finds projects.
        token_of: Reads the token of a request.
    """

    def __init__(
        self, authorizer: Authorizer, namespaces: Namespaces, token_of: Callable[[Request], str] = bearer
    ) -> None:
        self._authorizer = authorizer
        self._namespaces = namespaces
        self._token_of = token_of

    def permit(self, verb: str, resource: str, subresource: str = "") -> Permit:
        """Return the dependency of a route that needs this permission in the namespace of its path."""

        async def permit(request: Request, namespace: str) -> None:
            who = await self._authorizer.identify(self._token_of(request))
            if not _NAMESPACE.fullmatch(namespace):
                raise NamespaceNotFoundError(namespace)
            await self._authorizer.require(who, verb, resource, namespace, subresource=subresource)
            structlog.contextvars.bind_contextvars(**request.path_params)
            request.state.caller = who
            request.state.project = await self._namespaces.project(namespace)

        return permit


def project_of(request: Request) -> Project:
    """Return the project that a permitted request is about."""
    project: Project = request.state.project
    return project


def caller_of(request: Request) -> TokenIdentity:
    """Return who sent a permitted request, as Kubernetes vouches."""
    caller: TokenIdentity = request.state.caller
    return caller
