"""The shape of a container task's pod: any image, with the runner beside it.

Three containers share one folder. The *shim* container copies a static program into it and ends. The *runner* is a
native sidecar: it holds the credential, which the user's container never sees. *main* is the user's image; its command
runs under the shim, which exits only after the runner said that the end is committed. The kubelet ends sidecars after
the main container, so a runner is never taken away from a command that still runs.
"""

from typing import Any, Final

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.kube.runner_names import MAIN_CONTAINER, RUNNER_CONTAINER, SHIM_CONTAINER

Object = dict[str, Any]

FOLDER: Final = "/run/windlass"
"""Where the shared folder is mounted, in all three containers."""

_VOLUME: Final = "windlass-shared"
_MOUNT: Final = {"name": _VOLUME, "mountPath": FOLDER}
_SHIM: Final = "/opt/windlass/bin/windlass-shim"
"""In the runner image."""


def shape(metadata: Object, spec: Object, key: PodParts, users_env: list[Object], sidecar: Object) -> None:
    """Make a pod that of a container task.

    Args:
        metadata: Of the pod; an annotation is added.
        spec: Of the pod; containers and the shared folder are added.
        key: What the pod is made of, with a command.
        users_env: Variables of the Task, checked.
        sidecar: Image, variables and mounts by which the runner identifies itself.
    """
    # `kubectl logs POD` shows what the runner echoes: the command's output, without the values of secrets.
    metadata["annotations"] = {"kubectl.kubernetes.io/default-container": RUNNER_CONTAINER}
    spec["volumes"] = [*spec.get("volumes", []), {"name": _VOLUME, "emptyDir": {}}]
    spec["initContainers"] = [_shim(str(sidecar["image"])), _runner(sidecar)]
    spec["containers"] = [_main(key, users_env)]


def _shim(image: str) -> Object:
    return {
        "name": SHIM_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [_SHIM, "--install", f"{FOLDER}/shim"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": _confined(read_only=True),
        "volumeMounts": [dict(_MOUNT)],
    }


def _runner(sidecar: Object) -> Object:
    *env, credential = sidecar["env"]
    return {
        "name": RUNNER_CONTAINER,
        "image": sidecar["image"],
        "imagePullPolicy": "IfNotPresent",
        # What makes it a sidecar. Started anew it finds no shim that connects again, and waits for its end.
        "restartPolicy": "Always",
        "command": ["python3", "-m", "windlass_runner.sidecar"],
        "env": [*env, {"name": "WINDLASS_SHARED", "value": FOLDER}, credential],
        # The same for every task: it holds one result in memory, whose size is limited. With limits, because a quota
        # of the namespace may ask for them in every container.
        "resources": {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _confined(read_only=True),
        "volumeMounts": [*sidecar.get("volumeMounts", []), dict(_MOUNT)],
    }


def _main(key: PodParts, users_env: list[Object]) -> Object:
    container: Object = {
        "name": MAIN_CONTAINER,
        "image": key.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [f"{FOLDER}/shim", FOLDER, "--", *(key.command or ())],
        "env": users_env,
        "resources": dict(key.resources),
        "securityContext": _confined(read_only=False),
        "volumeMounts": [dict(_MOUNT)],
    }
    if key.args is not None:
        container["args"] = list(key.args)
    return container


def _confined(*, read_only: bool) -> Object:
    drop = {"drop": ["ALL"]}
    return {"allowPrivilegeEscalation": False, "capabilities": drop, "readOnlyRootFilesystem": read_only}
