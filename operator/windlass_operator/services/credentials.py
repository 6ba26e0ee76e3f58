"""The runner credential of each namespace: a Secret that the operator makes, whose hash the ledger keeps."""

import secrets
from typing import Protocol

import structlog

from windlass_operator.domain.ids import token_hash
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Database

log = structlog.get_logger()


class SecretStore(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def ensure_credential(self, namespace: str, fresh: str) -> str:
        """Return the credential in the namespace's Secret; make the Secret with ``fresh`` if there is none."""
        ...


class CredentialService:
    """Makes sure that a namespace has its runner credential before the first pod starts in it."""

    def __init__(self, database: Database, store: SecretStore) -> None:
        self._database = database
        self._store = store
        self._done: set[str] = set()

    async def ensure(self, project_uid: str, project_id: int, namespace: str) -> None:
        """Make Secret and hash agree. Idempotent, and remembered for the life of the process."""
        if project_uid in self._done:
            return
        credential = await self._store.ensure_credential(namespace, f"wlr_{secrets.token_urlsafe(32)}")
        await runs.set_credential_hash(self._database, project_id, token_hash(credential))
        self._done.add(project_uid)

    def forget(self, project_uid: str) -> None:
        """Look again next time: the Secret may be gone."""
        self._done.discard(project_uid)
