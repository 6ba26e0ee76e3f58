"""``windlass doctor``: one question after the other, each with what to do if the answer is bad."""

import json
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from windlass.cli.connect import Access
from windlass.client import Client
from windlass.errors import ApiError
from windlass.findings import Finding

_GROUP: Final = "windlass.dev"
_KINDS: Final = ("tasks", "runs")
_PROGRAMS: Final = ("windlass-api", "windlass-operator")
_NEEDED: Final = (
    ("create", "runs", ""),
    ("get", "runs", ""),
    ("list", "runs", ""),
    ("patch", "runs", ""),
    ("get", "runs", "log"),
)
"""Verb, resource, subresource that the API asks Kubernetes about, for each route."""
_INSTALL: Final = "Install Windlass: helm install windlass charts/windlass -n windlass-system --create-namespace"


class Doctor:
    """Looks at what ``windlass`` needs, from this machine to the ledger.

    Args:
        access: How the API is reached.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client: Client | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield what is found, as it is found. What a failed check makes pointless is not asked."""
        cluster = False
        if shutil.which("kubectl"):
            for finding in self._cluster():
                cluster |= finding.check == "cluster" and finding.state == "ok"
                yield finding
        else:
            yield self._without_kubectl()
        yield from self._api()
        if self._client is not None and self._client.url:
            yield from self._as_caller(cluster=cluster)

    def _without_kubectl(self) -> Finding:
        if self._access.by_environment:
            return Finding("kubectl", "warn", "Not installed: the cluster itself is not looked at.")
        mend = "Install kubectl, or set WINDLASS_URL and WINDLASS_TOKEN."
        return Finding("kubectl", "fail", "Not installed, and WINDLASS_URL is not set.", mend)

    def _cluster(self) -> Iterator[Finding]:
        # Who works by the environment may have no cluster at hand, and need none.
        state: Any = "warn" if self._access.by_environment else "fail"
        try:
            found = json.loads(self._access.kubectl("version", "-o", "json"))
        except ApiError as error:
            mend = "`kubectl config get-contexts` lists the clusters that you know; --context chooses one."
            yield Finding("cluster", state, error.message, mend)
            return
        server = (found.get("serverVersion") or {}).get("gitVersion", "unknown version")
        yield Finding("cluster", "ok", f"Kubernetes {server} answers kubectl.")
        try:
            known = self._access.kubectl("api-resources", f"--api-group={_GROUP}", "-o", "name").split()
        except ApiError as error:
            yield Finding("resources", "warn", error.message)
        else:
            missing = [kind for kind in _KINDS if f"{kind}.{_GROUP}" not in known]
            if missing:
                names = ", ".join(f"{kind}.{_GROUP}" for kind in missing)
                yield Finding("resources", state, f"The cluster does not know {names}.", _INSTALL)
            else:
                yield Finding("resources", "ok", f"{len(known)} kinds of {_GROUP} are installed.")
        yield self._programs(state)

    def _programs(self, state: Any) -> Finding:
        space = self._access.system_namespace
        try:
            listed = json.loads(self._access.kubectl("get", "deployments", "-n", space, "-o", "json"))["items"]
        except ApiError as error:
            return Finding("control plane", "warn", f"Not readable for you: {error.message}")
        ready = {d["metadata"]["name"]: (d.get("status") or {}).get("availableReplicas") or 0 for d in listed}
        missing = [name for name in _PROGRAMS if name not in ready]
        if missing:
            mend = f"{_INSTALL}; if it is in another namespace, set WINDLASS_SYSTEM_NAMESPACE."
            return Finding("control plane", state, f"No {' and no '.join(missing)} in namespace {space}.", mend)
        down = [name for name in _PROGRAMS if not ready[name]]
        if down:
            mend = f"kubectl -n {space} describe deploy/{down[0]}; kubectl -n {space} logs deploy/{down[0]} -c migrate"
            return Finding("control plane", "fail", f"No pod of {' and '.join(down)} is available.", mend)
        pods = ", ".join(f"{name} {ready[name]}" for name in _PROGRAMS)
        return Finding("control plane", "ok", f"Available pods: {pods}.")

    def _api(self) -> Iterator[Finding]:
        try:
            self._client = client = self._access.client()
        except ApiError as error:
            yield Finding("api", "fail", f"{error.code}: {error.message}", error.hint or self._token_mend(error))
            return
        began = time.monotonic()
        try:
            # Not /healthz: a gateway in between may let nothing but /api/v1 through.
            status, said = client.look(f"/api/v1/namespaces/{client.namespace}/runs")
        except ApiError as error:
            client.url = ""
            mend = "Is WINDLASS_URL right, and is the API up? `kubectl -n windlass-system get pods` tells."
            yield Finding("api", "fail", error.message, mend)
            return
        took = round((time.monotonic() - began) * 1000)
        if status not in (401, 503) or not isinstance(said, dict) or "code" not in said:
            where, client.url = client.url, ""
            mend = (
                "WINDLASS_URL must be the address of the Service windlass-api, or of what lets /api/v1 through to it."
            )
            yield Finding("api", "fail", f"{where} answers {status}, and not as Windlass does.", mend)
            return
        yield Finding("api", "ok", f"{client.url} answers within {took} ms.")
        yield self._versions(client)

    def _token_mend(self, error: ApiError) -> str:
        if "create token" not in error.message:
            return ""
        account, space = self._access.service_account, self._access.namespace
        return f"kubectl -n {space} create serviceaccount {account}, or choose another with --service-account."

    def _versions(self, client: Client) -> Finding:
        ours = version("windlass")
        try:
            theirs = client.look("/openapi.json")[1]["info"]["version"]
        except (ApiError, KeyError, TypeError):
            return Finding("versions", "warn", f"This is {ours}; the API does not say which release it is.")
        if theirs == ours:
            return Finding("versions", "ok", f"Command line and API are {ours}.")
        mend = f"pip install 'windlass[cli]=={theirs}'"
        return Finding("versions", "warn", f"This is {ours}, the API is {theirs}.", mend)

    def _as_caller(self, *, cluster: bool) -> Iterator[Finding]:
        client = self._client
        assert client is not None, "the API answered"
        who, refusal = client.subject() or "the token's bearer", None
        try:
            client.list_page(limit=1)
        except ApiError as error:
            refusal = error
        if refusal is not None and refusal.status == 401:
            mend = f"kubectl create token ACCOUNT -n {client.namespace} --audience=windlass"
            yield Finding("token", "fail", refusal.message, mend)
            return
        yield Finding("token", "ok", f"The API knows you as {who}.")
        yield self._ledger(refusal)
        if cluster:
            yield self._granted(client, who, refusal)
        elif refusal is not None and refusal.status == 403:
            yield Finding("permissions", "fail", refusal.message, _grant(client, who))
        else:
            yield Finding("permissions", "ok", f"{who} may list runs in {client.namespace}; the rest is not looked at.")

    def _ledger(self, refusal: ApiError | None) -> Finding:
        if refusal is None or refusal.status == 404:
            return Finding("ledger", "ok", "PostgreSQL answers the API.")
        if refusal.status == 403:
            return Finding("ledger", "warn", "Not looked at: you may not list runs.")
        space = self._access.system_namespace
        mend = f"kubectl -n {space} exec deploy/windlass-operator -- windlass-operator doctor"
        return Finding("ledger", "fail", f"{refusal.code}: {refusal.message}", refusal.hint or mend)

    def _granted(self, client: Client, who: str, refusal: ApiError | None) -> Finding:
        """Ask Kubernetes what the token's owner may do, by SelfSubjectAccessReviews in their name."""
        space = client.namespace
        reviews = [_review(space, verb, resource, sub) for verb, resource, sub in _NEEDED]
        path = '{.status.allowed}{"\\n"}'
        # Not validated: for that kubectl reads the cluster's CRDs, as somebody who may perhaps not.
        flags = ["--validate=false", "-o", f"jsonpath={path}"] + (["--as", who] if who.startswith("system:") else [])
        try:
            said = self._access.kubectl("create", "-f", "-", *flags, stdin="".join(reviews)).split()
        except ApiError as error:
            if refusal is not None and refusal.status == 403:
                return Finding("permissions", "fail", refusal.message, _grant(client, who))
            return Finding("permissions", "warn", f"You may not ask what {who} may do: {error.message}")
        lacking = [_named(*needed) for needed, allowed in zip(_NEEDED, said, strict=True) if allowed != "true"]
        if not lacking:
            return Finding("permissions", "ok", f"{who} may start, read and cancel runs in {space}, and read logs.")
        message = f"In namespace {space}, {who} may not {', '.join(lacking)}."
        return Finding("permissions", "fail", message, _grant(client, who))


def _review(namespace: str, verb: str, resource: str, subresource: str) -> str:
    attributes = {"namespace": namespace, "verb": verb, "group": _GROUP, "resource": resource}
    attributes |= {"subresource": subresource} if subresource else {}
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    return json.dumps({**kind, "spec": {"resourceAttributes": attributes}}) + "\n"


def _named(verb: str, resource: str, subresource: str) -> str:
    return f"{verb} {resource}/{subresource}" if subresource else f"{verb} {resource}"


def _grant(client: Client, who: str) -> str:
    space, account = client.namespace, who.removeprefix("system:serviceaccount:")
    name = account.rpartition(":")[2]
    subject = f"--serviceaccount={account}" if account != who else f"--user={who}"
    command = f"kubectl -n {space} create rolebinding windlass-{name}"
    return f"{command} --clusterrole=edit {subject} (or windlass-edit and windlass-view for no more than Windlass)"
