"""A small client of the cluster's API: milliseconds, where a kubectl process takes 0.2 s."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

from .errors import ClusterError
from .settings import API_PORT, NODE_IP


class ApiError(ClusterError):
    """The API answered with an error, or not at all (status 0)."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what, todo="`python3 -m e2e.cluster status` shows what runs")
        self.status = status


class KubeApi:
    """The API as its administrator."""

    def __init__(self, pki: Path, timeout_s: float = 10.0) -> None:
        self._pki = pki
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """Read an object or a list."""
        return self._request("GET", path)

    def ready(self) -> bool:
        """Tell whether the API server takes requests."""
        try:
            self._request("GET", "/readyz")
        except ApiError:
            return False
        return True

    def apply(self, resource: dict[str, Any]) -> None:
        """Create or change an object (server-side apply, so that repeating it changes nothing)."""
        path = resource_path(resource)
        self._request(
            "PATCH", f"{path}?fieldManager=windlass-cluster&force=true", resource, "application/apply-patch+yaml"
        )

    def merge(self, path: str, patch: dict[str, Any]) -> None:
        """Change some fields of an object; None removes one."""
        self._request("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object; that it is gone already is fine."""
        try:
            self._request("DELETE", path)
        except ApiError as error:
            if error.status != http.client.NOT_FOUND:
                raise

    def _request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        try:
            context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
            context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
            connection = http.client.HTTPSConnection(NODE_IP, API_PORT, timeout=self._timeout_s, context=context)
            try:
                headers = {"Content-Type": content_type} if body is not None else {}
                connection.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"the API server does not answer: {error}") from error
        if answer.status >= http.client.BAD_REQUEST:
            raise ApiError(answer.status, f"{method} {path} answered {answer.status}: {_message(text)}")
        return json.loads(text) if text.startswith("{") else text


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]


def resource_path(resource: dict[str, Any]) -> str:
    """Return an object's path; its plural is regular for all kinds that we use."""
    group, meta = resource["apiVersion"], resource["metadata"]
    prefix = f"/apis/{group}" if "/" in group else f"/api/{group}"
    kind = resource["kind"].lower()
    plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
    namespace = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{prefix}{namespace}/{plural}/{meta['name']}"
