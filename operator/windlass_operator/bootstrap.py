"""The embedded database's Secret: made once in the cluster, so that no re-render of the chart can rotate a password."""

import base64
import os
import secrets
from typing import Final

import structlog

from windlass_operator.domain.errors import WindlassError
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.errors import AlreadyExistsError
from windlass_operator.kube.kinds import SECRETS

log = structlog.get_logger()

_USER: Final = "windlass"


async def bootstrap_postgres(secret: str, host: str) -> None:
    """Create the Secret with ``uri`` and ``password`` unless it exists.

    Args:
        secret: Name of the Secret.
        host: DNS name of the database's Service.

    Raises:
        WindlassError: The namespace of this pod is unknown.
    """
    namespace = os.environ.get("WINDLASS_RELEASE_NAMESPACE", "")
    if not namespace:
        raise WindlassError("WINDLASS_RELEASE_NAMESPACE is not set; the chart sets it from the pod's namespace.")
    client = await KubeClient.connect()
    try:
        if await client.get(SECRETS, namespace, secret) is not None:
            log.info("secret exists", secret=secret)
            return
        password = secrets.token_urlsafe(24)
        values = {"password": password, "uri": f"postgresql://{_USER}:{password}@{host}:5432/{_USER}"}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        try:
            await client.create(SECRETS, namespace, {"metadata": {"name": secret}, "type": "Opaque", "data": data})
        except AlreadyExistsError:
            log.info("secret exists", secret=secret)
            return
        log.info("secret created", secret=secret)
    finally:
        await client.close()
