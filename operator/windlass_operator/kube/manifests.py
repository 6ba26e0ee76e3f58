"""Builds runner pods. Pure: a pod's whole shape is one golden file in the tests.

A runner pod has no volume, because the kubelet takes 0.3 s for any; no Kubernetes API token, because user code runs in
it; and no owner, because pods belong to pod keys, which are rows of the ledger and not objects. The pod of a container
task has one volume, by which its runner and the user's container meet; see ``container_task``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from windlass_operator.config import POD_GRACE
from windlass_operator.domain import pods
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PoolPod
from windlass_operator.kube import container_task
from windlass_operator.kube.pod_template import merge_template
from windlass_operator.kube.runner_names import (
    CREDENTIAL_KEY,
    CREDENTIAL_SECRET,
    MANAGED_BY_LABEL,
    POD_KEY_LABEL,
    RESERVED_ENV,
    RUNNER_CONTAINER,
    label_value,
    secret_of,
)
from windlass_operator.resources.names import POOL_LABEL, TASK_LABEL

TOKEN_AUDIENCE: Final = "windlass"  # noqa: S105 - an audience
TOKEN_LIFETIME: Final = 3600
"""Seconds; the kubelet renews a projected token at 80 % of it."""

_TOKEN_VOLUME: Final = "windlass-identity"  # noqa: S105 - a name
_TOKEN_FOLDER: Final = "/var/run/secrets/windlass.dev"  # noqa: S105 - a path

_STANDBY_WAIT_MS: Final = 25_000
"""How long a standby pod's question may be held: most of what the API allows, since it asks for as long as it waits."""

Object = dict[str, Any]


class EnvInvalidError(WindlassError):
    """A Task sets an environment variable that is not its to set."""

    code, http_status = "EnvInvalid", 422


@dataclass(frozen=True, slots=True)
class PodPlan:
    """One pod that the ledger has a row for.

    Attributes:
        name: From that row, so that a second create answers 409 and not a twin.
        namespace: Where the project is.
        pod_key: Goes into a label, by which an observed pod is filed.
        labels: More labels, such as ``windlass.dev/task``.
        ahead: A standby pod. It has time, so it shows the token and not the namespace's credential.
        pool: Of a pod that takes one run after the other.
    """

    name: str
    namespace: str
    pod_key: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ahead: bool = False
    pool: PoolPod | None = None


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What an installation sets for every runner pod.

    Attributes:
        api_url: What the runner calls.
        identity: ``secret``: the namespace's runner credential as a variable, which costs no time. ``token``: a
            projected service-account token, which costs a volume.
        runner_image: What the runner beside a container task runs.
        ahead: The identity of standby pods, whose start no run waits for.
        standby: Whether the pod is one of those.
    """

    api_url: str
    identity: Literal["secret", "token"] = "secret"
    runner_image: str = "docker.io/windlass/runner:dev"
    ahead: Literal["secret", "token"] = "token"
    standby: bool = False


def named(plan: pods.PodPlan) -> PodPlan:
    """Return what a manifest takes of a plan. A pod of a pool is nobody's Task's."""
    label, value = (TASK_LABEL, plan.task) if plan.pool is None else (POOL_LABEL, plan.pool.name)
    labels = {label: label_value(value)}
    return PodPlan(plan.name, plan.namespace, plan.pod_key, labels, ahead=plan.ahead, pool=plan.pool)


def runner_pod(pod: PodPlan, key: PodParts, settings: RunnerSettings) -> Object:
    """Return the manifest of one runner pod.

    Raises:
        EnvInvalidError: A variable of the Task has a reserved name, or one that is given twice.
        PodTemplateInvalidError: The Task's ``podTemplate`` changes what must stay.
    """
    if pod.ahead:
        settings = replace(settings, identity=settings.ahead, standby=True)
    spec: Object = {
        # Attempts are counted in the ledger; a container that restarts by itself would hide them.
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # Hundreds of variables about other Services cost start-up time and leak names.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(POD_GRACE.total_seconds()),
        # With the default of 5 each look-up of an outside name first tries every search domain.
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    labels = {**pod.labels, MANAGED_BY_LABEL: "windlass", POD_KEY_LABEL: pod.pod_key}
    metadata: Object = {"name": pod.name, "namespace": pod.namespace, "labels": labels}
    if settings.identity == "token":
        spec["volumes"] = [_token_volume()]
    if key.command is None:
        spec["containers"] = [_container(key, settings, pod.pool)]
    else:
        sidecar = _with_identity({"image": settings.runner_image, "env": _runners_env(settings)}, settings)
        container_task.shape(metadata, spec, key, _users_env(key.env), sidecar)
    merged = merge_template({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, key.pod_template)
    _finish_env(merged["spec"]["containers"][0]["env"], None if key.command is not None else _credential(settings))
    return merged


def _container(key: PodParts, settings: RunnerSettings, pool: PoolPod | None) -> Object:
    container: Object = {
        "name": RUNNER_CONTAINER,
        "image": key.image,
        # Images are named by tag or digest that does not move; asking the registry at each start would cost its answer.
        "imagePullPolicy": "IfNotPresent",
        "env": _env(key, settings, pool),
        "resources": dict(key.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            # Without a volume /tmp lies on the container's own layer, and user code may write there.
            "readOnlyRootFilesystem": False,
        },
    }
    return _with_identity(container, settings)


def _with_identity(container: Object, settings: RunnerSettings) -> Object:
    if settings.identity == "token":
        container["volumeMounts"] = [{"name": _TOKEN_VOLUME, "mountPath": _TOKEN_FOLDER, "readOnly": True}]
    return container


def _env(key: PodParts, settings: RunnerSettings, pool: PoolPod | None) -> list[Object]:
    *env, credential = _runners_env(settings)
    if pool is not None:
        # Past these it claims nothing more, and ends when nothing is left.
        env.append({"name": "WINDLASS_MAX_AGE", "value": str(round(pool.max_age.total_seconds()))})
        if pool.max_runs is not None:
            env.append({"name": "WINDLASS_MAX_RUNS", "value": str(pool.max_runs)})
        if pool.in_process:
            env.append({"name": "WINDLASS_EXECUTION", "value": "InProcess"})
            env.append({"name": "WINDLASS_MAX_RUNS_PER_PROCESS", "value": str(pool.max_runs_per_process)})
    preload = [{"name": "WINDLASS_PRELOAD", "value": key.preload}] if key.preload else []
    return [*env, *preload, *_users_env(key.env), credential]


def _runners_env(settings: RunnerSettings) -> list[Object]:
    standby = [{"name": "WINDLASS_STANDBY", "value": "1"}] if settings.standby else []
    return [
        {"name": "WINDLASS_URL", "value": settings.api_url},
        *standby,
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        _credential(settings),
    ]


def _credential(settings: RunnerSettings) -> Object:
    if settings.identity == "token":
        return {"name": "WINDLASS_CREDENTIAL_FILE", "value": f"{_TOKEN_FOLDER}/token"}
    reference = {"name": CREDENTIAL_SECRET, "key": CREDENTIAL_KEY}
    return {"name": "WINDLASS_CREDENTIAL", "valueFrom": {"secretKeyRef": reference}}


def _users_env(env: Sequence[Mapping[str, Any]]) -> list[Object]:
    seen: set[str] = set()
    for i, entry in enumerate(env):
        name, where = str(entry.get("name") or ""), f"spec.env[{i}].name"
        if name.startswith(RESERVED_ENV):
            raise EnvInvalidError(
                f"Variable {name[:80]!r} cannot be set: names that begin with WINDLASS_ or POD_ belong to the runner. "
                "Choose another name.",
                field=where,
            )
        if name in seen:
            raise EnvInvalidError(f"Variable {name[:80]!r} is given twice. Remove one of them.", field=where)
        if secret_of(entry) == CREDENTIAL_SECRET:
            raise EnvInvalidError(
                f"Variable {name[:80]!r} reads the Secret {CREDENTIAL_SECRET!r}, which is the runner's own. "
                "Keep your values in another Secret.",
                field=f"spec.env[{i}].valueFrom.secretKeyRef.name",
            )
        seen.add(name)
    return [dict(entry) for entry in env]


def _finish_env(env: list[Object], credential: Object | None) -> None:
    if credential is not None:
        # Last: `$(NAME)` in a value sees only variables before it, so no value of the user's can take it in.
        env.remove(credential)
        env.append(credential)
    # The runner takes the values of these variables out of logs.
    names = [e["name"] for e in env if secret_of(e) is not None and not e["name"].startswith(RESERVED_ENV)]
    if names:
        env.append({"name": "WINDLASS_SECRET_ENV", "value": ",".join(names)})


def _token_volume() -> Object:
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME, "path": "token"}
    return {"name": _TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}
