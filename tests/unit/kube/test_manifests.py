"""Runner pods against golden files. ``UPDATE_GOLDEN=1`` writes them anew; the diff is then what is reviewed."""

import copy
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from windlass_operator.domain import pods as plans
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PoolPod
from windlass_operator.kube.manifests import EnvInvalidError, PodPlan, RunnerSettings, named, runner_pod
from windlass_operator.kube.pod_template import PodTemplateInvalidError

GOLDEN: Final = Path(__file__).parent / "golden"
PLAN: Final = PodPlan("order-x7k2p", "shop", "0123456789abcdef", {"windlass.dev/task": "order"})
SETTINGS: Final = RunnerSettings("http://windlass-api.windlass-system.svc.cluster.local:8080")
IMAGE: Final = "docker.io/windlass/runner:dev"

SECRET_ENV: Final = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}}
ENV: Final = ({"name": "MODE", "value": "live"}, SECRET_ENV)
RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}

TEMPLATE: Final[dict[str, Any]] = {
    "metadata": {"labels": {"team": "checkout"}, "annotations": {"example.com/cost": "42"}},
    "spec": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "serviceAccountName": "order",
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"runAsUser": 1234, "fsGroup": 1234},
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "hostNetwork": False,
        "containers": [
            {
                "name": "runner",
                "env": [
                    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "modes", "key": "mode"}}},
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "api", "key": "token"}}},
                ],
                "resources": {"limits": {"cpu": "1"}},
                "securityContext": {"readOnlyRootFilesystem": True},
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }
        ],
    },
}


def parts(**changes: Any) -> PodParts:
    return PodParts(**{"image": IMAGE, "preload": None, "source_hash": None, **changes})


SCRIPT: Final[dict[str, Any]] = {"image": "docker.io/library/busybox:1.37", "command": ["sh", "-c", "echo hello"]}
MAIN_TEMPLATE: Final[dict[str, Any]] = {
    "spec": {
        "securityContext": {"runAsUser": 1234},
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
    },
}


CASES: Final[dict[str, tuple[PodParts, RunnerSettings]]] = {
    "inline-source": (parts(source_hash="00ff"), SETTINGS),
    "baked-code": (parts(preload="order", env=ENV, resources=RESOURCES), SETTINGS),
    "token-identity": (parts(preload="order", env=ENV), RunnerSettings(SETTINGS.api_url, identity="token")),
    "template": (parts(preload="order", env=ENV, resources=RESOURCES, pod_template=TEMPLATE), SETTINGS),
    "container-task": (parts(**SCRIPT, args=["--fast"], env=ENV, resources=RESOURCES), SETTINGS),
    "container-task-with-token-and-template": (
        parts(**SCRIPT, env=ENV, pod_template=MAIN_TEMPLATE),
        RunnerSettings(SETTINGS.api_url, identity="token"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_runner_pod_is_its_golden_file(name: str) -> None:
    key, settings = CASES[name]
    found = runner_pod(PLAN, key, settings)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(found, sort_keys=False))
    assert found == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_same_parts_give_the_same_pod_and_stay_as_they_were(name: str) -> None:
    key, settings = CASES[name]
    before = copy.deepcopy(key)
    assert runner_pod(PLAN, key, settings) == runner_pod(PLAN, key, settings)
    assert key == before


@pytest.mark.parametrize("name", ["baked-code", "container-task"])
def test_a_standby_pod_differs_in_its_identity_and_in_knowing_what_it_is(name: str) -> None:
    key, settings = CASES[name]
    plan = replace(PLAN, ahead=True)
    found = runner_pod(plan, key, settings)
    standby = {"name": "WINDLASS_STANDBY", "value": "1"}
    taken = [c["env"].remove(standby) for c in _containers(found) if standby in c.get("env", [])]
    assert len(taken) == 1
    assert found == runner_pod(PLAN, key, replace(settings, identity="token"))
    assert "windlass-runner" not in str(_containers(found))


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


def test_a_pod_of_a_pool_is_its_golden_file() -> None:
    pool = PoolPod("fast", timedelta(hours=1), max_runs=100)
    plan = named(plans.PodPlan("fast-x7k2p", "shop", PLAN.pod_key, "", ahead=True, pool=pool))
    template = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "batch"}}}
    found = runner_pod(plan, parts(env=ENV, resources=RESOURCES, pod_template=template, isolation="Pool"), SETTINGS)
    file = GOLDEN / "pool.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(found, sort_keys=False))
    assert found == yaml.safe_load(file.read_text())


def test_a_pod_whose_runs_share_a_process_is_told_so() -> None:
    def env(pool: PoolPod) -> dict[str, Any]:
        plan = plans.PodPlan("fast-x7k2p", "shop", PLAN.pod_key, "", ahead=True, pool=pool)
        pod = runner_pod(named(plan), parts(isolation="Pool"), SETTINGS)
        return {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}

    plain, shared = env(PoolPod("fast", timedelta(hours=1))), env(PoolPod("fast", timedelta(hours=1), in_process=True))
    assert {name: shared[name] for name in shared.keys() - plain.keys()} == {
        "WINDLASS_EXECUTION": "InProcess",
        "WINDLASS_MAX_RUNS_PER_PROCESS": "0",
    }


def env_of(key: PodParts, settings: RunnerSettings = SETTINGS) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = runner_pod(PLAN, key, settings)["spec"]["containers"][0]["env"]
    return env


def test_no_value_of_the_users_can_take_the_credential_in_by_reference() -> None:
    template = {"spec": {"containers": [{"name": "runner", "env": [{"name": "B", "value": "$(WINDLASS_CREDENTIAL)"}]}]}}
    env = env_of(parts(env=({"name": "A", "value": "$(WINDLASS_CREDENTIAL)"},), pod_template=template))
    order = [entry["name"] for entry in env]
    assert order.index("WINDLASS_CREDENTIAL") > max(order.index("A"), order.index("B"))


def test_variables_from_secrets_are_listed_wherever_they_were_set() -> None:
    assert env_of(CASES["template"][0])[-1] == {"name": "WINDLASS_SECRET_ENV", "value": "KEY,TOKEN"}


@pytest.mark.parametrize("name", ["WINDLASS_URL", "WINDLASS_ANYTHING", "POD_NAME", "POD_UID"])
def test_a_variable_with_a_reserved_name_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(EnvInvalidError, match="belong to the runner") as raised:
        env_of(parts(env=({"name": "A", "value": ""}, {"name": name, "value": ""})))
    assert raised.value.field == "spec.env[1].name"


def test_a_variable_that_is_given_twice_is_refused() -> None:
    with pytest.raises(EnvInvalidError, match="twice") as raised:
        env_of(parts(env=({"name": "A", "value": "1"}, {"name": "A", "value": "2"})))
    assert raised.value.field == "spec.env[1].name"


def test_a_variable_that_reads_the_runners_secret_is_refused() -> None:
    reference = {"secretKeyRef": {"name": "windlass-runner", "key": "credential"}}
    with pytest.raises(EnvInvalidError, match="another Secret"):
        env_of(parts(env=({"name": "A", "valueFrom": reference},)))


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "runner", **fields}]}}


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


C: Final = "spec.podTemplate.spec.containers[0]"
S: Final = "spec.podTemplate.spec"

REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    (spec(hostNetwork=True), f"{S}.hostNetwork"),
    (spec(hostPID=True), f"{S}.hostPID"),
    (spec(hostIPC=True), f"{S}.hostIPC"),
    (spec(shareProcessNamespace=True), f"{S}.shareProcessNamespace"),
    (spec(nodeName="n"), f"{S}.nodeName"),
    (spec(restartPolicy="Always"), f"{S}.restartPolicy"),
    (spec(restartPolicy=None), f"{S}.restartPolicy"),
    (spec(automountServiceAccountToken=True), f"{S}.automountServiceAccountToken"),
    (spec(automountServiceAccountToken=None), f"{S}.automountServiceAccountToken"),
    (spec(activeDeadlineSeconds=5), f"{S}.activeDeadlineSeconds"),
    (spec(terminationGracePeriodSeconds=0), f"{S}.terminationGracePeriodSeconds"),
    (spec(initContainers=[{"name": "i"}]), f"{S}.initContainers"),
    (spec(ephemeralContainers=[{"name": "e"}]), f"{S}.ephemeralContainers"),
    (spec(fieldOfNextYear=1), f"{S}.fieldOfNextYear"),
    (spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), f"{S}.volumes[0].hostPath"),
    (spec(volumes=[{"name": "v", "secret": {"secretName": "windlass-runner"}}]), f"{S}.volumes[0]"),
    (
        spec(volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "windlass-runner"}}]}}]),
        f"{S}.volumes[0]",
    ),
    (spec(volumes=[{"name": "v", "projected": {"sources": 7}}]), f"{S}.volumes[0]"),
    (spec(volumes="x"), f"{S}.volumes"),
    (spec(securityContext={"runAsNonRoot": False}), f"{S}.securityContext.runAsNonRoot"),
    (spec(securityContext={"runAsUser": 0}), f"{S}.securityContext.runAsUser"),
    (spec(securityContext={"seccompProfile": {"type": "Unconfined"}}), f"{S}.securityContext.seccompProfile.type"),
    (spec(securityContext={"seccompProfile": None}), f"{S}.securityContext.seccompProfile"),
    (spec(securityContext={"sysctls": []}), f"{S}.securityContext.sysctls"),
    (spec(securityContext=None), f"{S}.securityContext.runAsNonRoot"),
    (spec(securityContext="x"), f"{S}.securityContext"),
    (spec(containers=None), f"{S}.containers"),
    (spec(containers=[None]), f"{S}.containers[0]"),
    (spec(containers=[{"name": "other", "image": "x"}]), f"{S}.containers[0]"),
    (spec(containers=[{"name": "runner"}, {"name": "sidecar"}]), f"{S}.containers[1]"),
    (spec(containers=[{"name": "runner"}, {"name": "runner", "image": "x"}]), f"{S}.containers[1]"),
    (container(image="x"), f"{C}.image"),
    (container(command=["sh"]), f"{C}.command"),
    (container(args=["x"]), f"{C}.args"),
    (container(envFrom=[{"secretRef": {"name": "s"}}]), f"{C}.envFrom"),
    (container(lifecycle={}), f"{C}.lifecycle"),
    (container(env=None), f"{C}.env"),
    (container(env="x"), f"{C}.env"),
    (container(env=[{"value": "x"}]), f"{C}.env[0].name"),
    (container(env=[{"name": "WINDLASS_URL", "value": "http://evil"}]), f"{C}.env[0].name"),
    (container(env=[{"name": "POD_UID", "value": "other"}]), f"{C}.env[0].name"),
    (
        container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "windlass-runner", "key": "k"}}}]),
        f"{C}.env[0].valueFrom",
    ),
    (container(ports=[{"containerPort": 80, "hostPort": 80}]), f"{C}.ports[0].hostPort"),
    (container(ports=[7]), f"{C}.ports[0]"),
    (container(securityContext={"privileged": True}), f"{C}.securityContext.privileged"),
    (container(securityContext={"runAsUser": 0}), f"{C}.securityContext.runAsUser"),
    (container(securityContext={"procMount": "Unmasked"}), f"{C}.securityContext.procMount"),
    (
        container(securityContext={"allowPrivilegeEscalation": True}),
        f"{C}.securityContext.allowPrivilegeEscalation",
    ),
    (container(securityContext=None), f"{C}.securityContext.allowPrivilegeEscalation"),
    (container(securityContext={"capabilities": {"drop": []}}), f"{C}.securityContext.capabilities.drop"),
    (container(securityContext={"capabilities": None}), f"{C}.securityContext.capabilities.drop"),
    (container(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), f"{C}.securityContext.capabilities.add"),
    ({"kind": "Pod"}, "spec.podTemplate.kind"),
    ({"spec": []}, "spec.podTemplate.spec"),
    ({"metadata": {"name": "x"}}, "spec.podTemplate.metadata.name"),
    ({"metadata": {"ownerReferences": []}}, "spec.podTemplate.metadata.ownerReferences"),
    ({"metadata": {"labels": {"windlass.dev/pod-key": "x"}}}, "spec.podTemplate.metadata.labels[windlass.dev/pod-key]"),
    (
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "spec.podTemplate.metadata.labels[app.kubernetes.io/managed-by]",
    ),
    ({"metadata": {"labels": {"a": 1}}}, "spec.podTemplate.metadata.labels[a]"),
    (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/runner": "unconfined"}}},
        "spec.podTemplate.metadata.annotations[container.apparmor.security.beta.kubernetes.io/runner]",
    ),
]


@pytest.mark.parametrize(("template", "field"), REFUSED, ids=[field + str(i) for i, (_, field) in enumerate(REFUSED)])
def test_a_template_that_changes_what_must_stay_is_refused_by_its_field(template: dict[str, Any], field: str) -> None:
    with pytest.raises(PodTemplateInvalidError) as raised:
        runner_pod(PLAN, parts(env=ENV, pod_template=template), SETTINGS)
    assert raised.value.field == field
    assert str(raised.value).startswith(field)


def test_a_template_cannot_take_away_the_volume_of_the_identity() -> None:
    settings = RunnerSettings(SETTINGS.api_url, identity="token")
    for template in (
        spec(volumes=None),
        spec(volumes=[{"name": "windlass-identity", "emptyDir": {}}]),
        container(volumeMounts=None),
        container(volumeMounts=[{"name": "x", "mountPath": "/var/run/secrets/windlass.dev"}]),
    ):
        with pytest.raises(PodTemplateInvalidError, match="by which the runner is reached or known"):
            runner_pod(PLAN, parts(pod_template=template), settings)


def test_a_template_nested_beyond_reason_is_refused_and_no_crash() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    try:
        with pytest.raises(PodTemplateInvalidError, match="nested"):
            runner_pod(PLAN, parts(pod_template=spec(affinity=deep)), SETTINGS)
    finally:
        while deep:  # one by one: the destructor of the whole would recurse
            deep = deep.pop("a")


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"metadata": None, "spec": None},
        {"metadata": {"labels": None}},
        spec(containers=[]),
        spec(restartPolicy="Never", hostNetwork=False, automountServiceAccountToken=False),
        container(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"]}}),
    ],
)
def test_a_template_that_says_what_holds_anyway_is_accepted(template: dict[str, Any]) -> None:
    found = runner_pod(PLAN, parts(pod_template=template), SETTINGS)
    assert found["metadata"]["labels"]["windlass.dev/pod-key"] == PLAN.pod_key
    assert found["spec"]["restartPolicy"] == "Never"


def test_the_command_of_a_container_task_never_sees_what_identifies_its_runner() -> None:
    for name in ("container-task", "container-task-with-token-and-template"):
        (main,) = runner_pod(PLAN, *CASES[name])["spec"]["containers"]
        assert "CREDENTIAL" not in str(main)
        assert "windlass-identity" not in str(main)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (container(), "'main'"),  # its pods have a runner too, which is not the user's to change
        (spec(volumes=None), "must keep 'windlass-identity'"),
        (spec(volumes=[{"name": "windlass-shared", "emptyDir": {"medium": "Memory"}}]), "must keep 'windlass-shared'"),
        ({"spec": {"containers": [{"name": "main", "volumeMounts": None}]}}, "must keep the mount"),
        (
            {"spec": {"containers": [{"name": "main", "volumeMounts": [{"name": "x", "mountPath": "/run/windlass"}]}]}},
            "must keep the mount",
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "main", "volumeMounts": [{"name": "windlass-identity", "mountPath": "/i"}]}]
                }
            },
            "a volume of the runner's",
        ),
        ({"spec": {"containers": [{"name": "main", "command": ["sh"]}]}}, "Set spec.command of the Task"),
    ],
)
def test_a_template_cannot_come_between_a_command_and_its_runner(template: dict[str, Any], says: str) -> None:
    settings = RunnerSettings(SETTINGS.api_url, identity="token")
    with pytest.raises(PodTemplateInvalidError, match=says):
        runner_pod(PLAN, parts(**SCRIPT, pod_template=template), settings)
