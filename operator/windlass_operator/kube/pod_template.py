"""Merges a Task's free-form ``podTemplate`` over our pod, then checks what came out.

The operator makes pods on behalf of whoever may write a Task, so a template must not reach further than a pod of the
``restricted`` level would. What may be changed is listed, and everything else is refused: a field that Kubernetes adds
next year is closed until somebody has thought about it.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

from windlass_operator.domain.errors import WindlassError
from windlass_operator.kube.runner_names import (
    CREDENTIAL_SECRET,
    MANAGED_BY_LABEL,
    RESERVED_ENV,
    secret_of,
)
from windlass_operator.resources.names import PREFIX

Object = dict[str, Any]

_ROOT: Final = "spec.podTemplate"
_CONTAINER: Final = f"{_ROOT}.spec.containers[0]"

_POD_FIELDS: Final = frozenset(
    {
        "affinity",
        "containers",
        "dnsConfig",
        "dnsPolicy",
        "hostAliases",
        "imagePullSecrets",
        "nodeSelector",
        "preemptionPolicy",
        "priorityClassName",
        "runtimeClassName",
        "schedulerName",
        "securityContext",
        "serviceAccountName",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    }
)
_CONTAINER_FIELDS: Final = frozenset(
    {
        "env",
        "imagePullPolicy",
        "name",
        "ports",
        "resources",
        "securityContext",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "volumeMounts",
        "workingDir",
    }
)
_POD_SECURITY: Final = frozenset(
    {
        "fsGroup",
        "fsGroupChangePolicy",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
        "supplementalGroups",
        "supplementalGroupsPolicy",
    }
)
_CONTAINER_SECURITY: Final = frozenset(
    {
        "allowPrivilegeEscalation",
        "capabilities",
        "privileged",
        "readOnlyRootFilesystem",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
    }
)
_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
"""The kinds that the ``restricted`` level allows."""

_INSTEAD: Final[Mapping[str, str]] = {
    "image": "Set spec.image of the Task.",
    "command": "Set spec.command of the Task.",
    "args": "Set spec.args of the Task.",
    "envFrom": "List each variable in spec.env, so that values of Secrets can be taken out of logs.",
    "activeDeadlineSeconds": "Set spec.timeout or spec.attemptTimeout of the Task.",
    "initContainers": "Prepare inside the image or in the function.",
    "terminationGracePeriodSeconds": "It is part of the runner's protocol.",
}
_LIST_KEYS: Final[Mapping[str, str]] = {"volumeMounts": "mountPath", "ports": "containerPort"}
"""Lists whose items are known by something else than ``name``."""


class PodTemplateInvalidError(WindlassError):
    """A Task's ``podTemplate`` changes what must stay."""

    code, http_status = "PodTemplateInvalid", 422


def merge_template(ours: Object, template: Mapping[str, Any]) -> Object:
    """Return our pod with the template merged over it: maps deeply, lists of named items by name, other lists whole.

    Args:
        ours: Our manifest; not changed.
        template: Free-form; may hold anything.

    Raises:
        PodTemplateInvalidError: The result changes what must stay. ``field`` is the path below ``spec.podTemplate``.
    """
    if not template:
        return copy.deepcopy(ours)
    try:
        _check_shape(template, ours["spec"]["containers"][0]["name"])
        merged = copy.deepcopy(ours)
        # `labels: null` would take our own away, by which the pod is found again.
        metadata = {k: v for k, v in _map(template.get("metadata"), _ROOT).items() if v is not None}
        merged["metadata"] = _merged(merged["metadata"], metadata, "")
        merged["spec"] = _merged(merged["spec"], _map(template.get("spec"), _ROOT), "")
    except RecursionError:
        raise _refused(_ROOT, "is nested too deeply") from None
    _check_spec(merged["spec"], ours["spec"])
    _check_mounts(merged["spec"]["containers"][0], ours["spec"]["containers"][0])
    _check_container(merged["spec"]["containers"][0], ours["spec"]["containers"][0])
    return merged


def _merged(base: Any, over: Any, name: str) -> Any:
    if isinstance(base, dict) and isinstance(over, Mapping):
        result = dict(base)
        for key, value in over.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = _merged(result.get(key), value, key)
        return result
    key = _LIST_KEYS.get(name, "name")
    if isinstance(base, list) and isinstance(over, list) and _all_have(base, key) and _all_have(over, key):
        named = {item[key]: item for item in base}
        for item in over:
            # An item is replaced whole, but for the container: `value` of one and `valueFrom` of the other do not mix.
            known = named.get(item[key]) if name == "containers" else None
            named[item[key]] = _merged(known, item, "")
        return list(named.values())
    return copy.deepcopy(over)


def _all_have(items: Iterable[Any], key: str) -> bool:
    return all(isinstance(item, Mapping) and isinstance(item.get(key), str | int) for item in items)


def _check_shape(template: Mapping[str, Any], name: str) -> None:
    _only(template, {"metadata", "spec"}, _ROOT)
    _check_metadata(_map(template.get("metadata"), f"{_ROOT}.metadata"))
    spec = _map(template.get("spec"), f"{_ROOT}.spec")
    if "containers" not in spec:
        return
    if not isinstance(spec["containers"], list):
        raise _refused(f"{_ROOT}.spec.containers", "must be a list of containers")
    for i, container in enumerate(spec["containers"]):
        path = f"{_ROOT}.spec.containers[{i}]"
        if _map(container, path).get("name") != name or i > 0:
            raise _refused(
                path, f"may not be added: this Task's pods have one for your code, {name!r}. Change that one, or none"
            )
        _check_users_env(container.get("env"))


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    _only(metadata, {"labels", "annotations"}, f"{_ROOT}.metadata")
    for kind in ("labels", "annotations"):
        for name, value in _map(metadata.get(kind), f"{_ROOT}.metadata.{kind}").items():
            path = f"{_ROOT}.metadata.{kind}[{str(name)[:80]}]"
            if not isinstance(name, str) or not isinstance(value, str):
                raise _refused(path, "must be text; put numbers and booleans in quotes")
            if name.startswith(PREFIX) or name == MANAGED_BY_LABEL:
                raise _refused(path, "is Windlass's own. Choose another prefix")
            if kind == "annotations" and ("apparmor" in name or "seccomp" in name):
                raise _refused(path, "would weaken the pod's confinement. Leave it out")


def _check_users_env(env: Any) -> None:
    for i, entry in enumerate(_list(env, f"{_CONTAINER}.env")):
        path = f"{_CONTAINER}.env[{i}].name"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise _refused(path, "is missing")
        if entry["name"].startswith(RESERVED_ENV):
            raise _refused(path, "cannot be set: names that begin with WINDLASS_ or POD_ belong to the runner")
        if secret_of(entry) == CREDENTIAL_SECRET:
            raise _refused(f"{_CONTAINER}.env[{i}].valueFrom", "reads the runner's own Secret. Use another one")


def _check_spec(spec: Object, ours: Object) -> None:
    _unchanged(spec, ours, _POD_FIELDS, f"{_ROOT}.spec")
    _check_security(spec.get("securityContext"), _POD_SECURITY, f"{_ROOT}.spec.securityContext")
    for required in ("runAsNonRoot", "seccompProfile"):
        if required not in spec.get("securityContext", {}):
            raise _refused(f"{_ROOT}.spec.securityContext.{required}", "must stay")
    volumes = _list(spec.get("volumes"), f"{_ROOT}.spec.volumes")
    for i, volume in enumerate(volumes):
        _check_volume(volume, f"{_ROOT}.spec.volumes[{i}]")
    missing = [v["name"] for v in ours.get("volumes", []) if v not in volumes]
    if missing:
        raise _refused(f"{_ROOT}.spec.volumes", f"must keep {missing[0]!r}, by which the runner is reached or known")


def _check_volume(volume: Any, path: str) -> None:
    for kind in _map(volume, path):
        if kind != "name" and kind not in _VOLUMES:
            allowed = ", ".join(sorted(_VOLUMES))
            raise _refused(f"{path}.{kind}", f"is refused; a runner pod may have {allowed}")
    for secret in _secrets_of(volume, path):
        if secret == CREDENTIAL_SECRET:
            raise _refused(path, f"mounts the Secret {CREDENTIAL_SECRET!r}, the runner's own. Use another one")


def _secrets_of(volume: Mapping[str, Any], path: str) -> list[Any]:
    found = [_map(volume.get("secret"), path).get("secretName")]
    sources = _map(volume.get("projected"), path).get("sources")
    found += [_map(_map(source, path).get("secret"), path).get("name") for source in _list(sources, path)]
    return found


def _check_container(container: Object, ours: Object) -> None:
    _unchanged(container, ours, _CONTAINER_FIELDS, _CONTAINER)
    path = f"{_CONTAINER}.securityContext"
    _check_security(container.get("securityContext"), _CONTAINER_SECURITY, path)
    security = _map(container.get("securityContext"), path)
    if security.get("allowPrivilegeEscalation") is not False:
        raise _refused(f"{path}.allowPrivilegeEscalation", "must stay false")
    if security.get("privileged", False) is not False:
        raise _refused(f"{path}.privileged", "is refused")
    capabilities = _map(security.get("capabilities"), f"{path}.capabilities")
    if capabilities.get("drop") != ["ALL"]:
        raise _refused(f"{path}.capabilities.drop", "must stay [ALL]")
    if capabilities.get("add", []) not in ([], ["NET_BIND_SERVICE"]):
        raise _refused(f"{path}.capabilities.add", "may hold NET_BIND_SERVICE only")
    for i, port in enumerate(_list(container.get("ports"), f"{_CONTAINER}.ports")):
        if "hostPort" in _map(port, f"{_CONTAINER}.ports[{i}]"):
            raise _refused(f"{_CONTAINER}.ports[{i}].hostPort", "is refused: it takes a port of the node")
    kept = _list(container.get("env"), f"{_CONTAINER}.env")
    if any(entry not in kept for entry in ours["env"] if entry["name"].startswith(RESERVED_ENV)):
        raise _refused(f"{_CONTAINER}.env", "must keep the runner's variables")


def _check_mounts(container: Object, ours: Object) -> None:
    mounts, kept = _list(container.get("volumeMounts"), f"{_CONTAINER}.volumeMounts"), ours.get("volumeMounts", [])
    for i, mount in enumerate(mounts):
        path = f"{_CONTAINER}.volumeMounts[{i}]"
        if mount not in kept and str(_map(mount, path).get("name")).startswith("windlass-"):
            raise _refused(path, "mounts a volume of the runner's. Use one of your own")
    if any(mount not in mounts for mount in kept):
        raise _refused(f"{_CONTAINER}.volumeMounts", "must keep the mount by which the runner is reached or known")


def _check_security(context: Any, allowed: frozenset[str], path: str) -> None:
    security = _map(context, path)
    _only(security, allowed, path)
    if security.get("runAsNonRoot", True) is not True:
        raise _refused(f"{path}.runAsNonRoot", "must stay true")
    if security.get("runAsUser", 1) == 0:
        raise _refused(f"{path}.runAsUser", "must not be 0: runner pods never run as root")
    profile = _map(security.get("seccompProfile", {"type": "RuntimeDefault"}), f"{path}.seccompProfile")
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        raise _refused(f"{path}.seccompProfile.type", "must be RuntimeDefault or Localhost")


def _unchanged(merged: Mapping[str, Any], ours: Mapping[str, Any], free: frozenset[str], path: str) -> None:
    for name in {**ours, **merged}:
        # `hostNetwork: false` says what holds anyway; taking away our `automountServiceAccountToken: false` does not.
        same = name in merged and merged[name] == ours[name] if name in ours else merged[name] is False
        if name not in free and not same:
            instead = _INSTEAD.get(name, "Leave it out.")
            raise _refused(f"{path}.{str(name)[:80]}", f"cannot be changed by a template. {instead}".rstrip("."))


def _only(value: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
    for name in value:
        if name not in allowed:
            raise _refused(f"{path}.{str(name)[:80]}", f"is not supported; use {', '.join(sorted(allowed))}")


def _map(value: Any, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refused(path, "must be a map")
    return value


def _list(value: Any, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _refused(path, "must be a list")
    return value


def _refused(path: str, why: str) -> PodTemplateInvalidError:
    return PodTemplateInvalidError(f"{path} {why}.", field=path)
