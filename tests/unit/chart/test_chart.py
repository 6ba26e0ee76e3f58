"""The rendered chart: safe pods, stable text, no secrets in it, and values that are checked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.chart import rendering
from tests.unit.chart.rendering import (
    CHART,
    NAMESPACE,
    ROOT,
    HelmMissingError,
    Object,
    containers,
    env,
    one,
    pods,
    render,
    render_text,
    run_helm,
    select,
)
from windlass_operator.config import Config
from windlass_operator.resources.approval import ApprovalSpec
from windlass_operator.resources.run import RunSpec

EVERYTHING: Object = {
    "postgres": {"embedded": {"enabled": True}},
    "s3": {"enabled": True},
    "imagePullSecrets": [{"name": "mirror"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podAnnotations": {"example.com/scrape": "yes"},
    "podLabels": {"team": "platform"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "metrics": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
    "traces": {"endpoint": "http://collector.observability:4318"},
}
INSTALLS = [
    pytest.param({}, id="defaults"),
    pytest.param({"namespaces": ["shop"]}, id="listed"),
    pytest.param(EVERYTHING, id="everything"),
    pytest.param({"postgres": {"embedded": {"enabled": True, "persistence": {"enabled": False}}}}, id="in-memory"),
]


@pytest.mark.parametrize("values", INSTALLS)
def test_lint_is_content(values: Object, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    run_helm("lint", "--strict", CHART, "--values", file)


@pytest.mark.parametrize("values", INSTALLS)
def test_every_pod_meets_the_restricted_standard(values: Object) -> None:
    seen = 0
    for name, pod in pods(render(values)):
        seen += 1
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert pod["enableServiceLinks"] is False, name
        for volume in pod.get("volumes", []):
            assert volume.keys() - {"name"} <= {"emptyDir", "projected"}, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert "memory" in container["resources"]["limits"], name
            assert container["imagePullPolicy"] == "IfNotPresent", name
    assert seen >= 3


@pytest.mark.parametrize("values", INSTALLS)
def test_no_secret_stands_in_the_text(values: Object) -> None:
    objects = render(values)
    assert not select(objects, "Secret"), "what Helm renders it can rotate, and it keeps a copy"
    for name, pod in pods(objects):
        for container in containers(pod):
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            assert not any(word in words.lower() for word in ("password", "token", "uri", "accesskey")), name
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("PASSWORD", "URI", "KEY", "TOKEN", "SECRET")):
                    assert "secretKeyRef" in variable["valueFrom"], name


@pytest.mark.parametrize("values", INSTALLS)
def test_rendering_twice_gives_the_same_text(values: Object) -> None:
    """With a plain `helm template | kubectl apply`, nothing may change that nobody changed."""
    first = render_text(values)
    rendering._rendered.cache_clear()
    assert render_text(values) == first


def test_nothing_depends_on_chance_or_on_the_cluster() -> None:
    for template in (CHART / "templates").rglob("*"):
        if template.is_file():
            text = template.read_text()
            for function in ("randAlphaNum", "randBytes", "genPrivateKey", "uuidv4", "now", "lookup"):
                assert f"{{{{ {function}" not in text, f"{template.name}: {function}"
                assert f"({function} " not in text, f"{template.name}: {function}"


@pytest.mark.parametrize("values", INSTALLS)
def test_every_object_is_labelled_and_in_a_known_place(values: Object) -> None:
    for item in render(values):
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "windlass"
        assert item["metadata"].get("namespace", NAMESPACE) in {NAMESPACE, *values.get("namespaces", [])}


@pytest.mark.parametrize("values", INSTALLS)
def test_selectors_find_their_own_pods_only(values: Object) -> None:
    objects = render(values)
    labels = {
        o["metadata"]["name"]: o["spec"]["template"]["metadata"]["labels"]
        for o in objects
        if "template" in o.get("spec", {})
    }
    selectors: dict[str, Any] = {
        o["metadata"]["name"]: o["spec"]["selector"] for kind in ("Service",) for o in select(objects, kind)
    }
    selectors |= {
        f"{o['kind']} {o['metadata']['name']}": o["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget")
        for o in select(objects, kind)
    }
    for name, selector in selectors.items():
        found = [pod for pod, has in labels.items() if selector.items() <= has.items()]
        assert found == [name.rsplit(" ", 1)[-1]]


def test_names_are_the_documented_ones() -> None:
    objects = render(EVERYTHING)
    service = one(objects, "Service", "windlass-api")
    assert [port["port"] for port in service["spec"]["ports"]] == [8080]
    assert {o["metadata"]["name"] for o in select(objects, "Deployment")} == {"windlass-operator", "windlass-api"}
    assert [o["metadata"]["name"] for o in select(objects, "StatefulSet")] == ["windlass-postgres"]


def test_another_release_name_gives_other_names() -> None:
    objects = render(EVERYTHING, release="prod")
    named = [o for o in objects if o["kind"] != "CustomResourceDefinition"]
    assert all(o["metadata"]["name"].startswith("prod-windlass-") for o in named)


@pytest.mark.parametrize(("component", "port"), [("operator", 8081), ("api", 8080)])
def test_the_environment_is_what_the_process_reads(component: str, port: int) -> None:
    values: Object = {**EVERYTHING, "namespaces": ["shop", "billing"], "log": {"level": "debug"}}
    pod = one(render(values), "Deployment", f"windlass-{component}")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [component]
    in_cluster = {
        name: entry.get("value") or f"<{next(iter(entry['valueFrom'].values()))}>"
        for name, entry in env(container).items()
    }
    config = Config.from_env(in_cluster)
    assert config.port == port
    assert config.namespaces == ("shop", "billing")
    assert config.api_url == f"http://windlass-api.{NAMESPACE}.svc.cluster.local:8080"
    assert config.runner_image == "docker.io/windlass/runner:dev"
    assert config.runner_identity == "secret"
    assert config.log_level == "debug"
    assert config.s3 is not None
    variables = env(container)
    assert variables["WINDLASS_POSTGRES_URI"]["valueFrom"]["secretKeyRef"] == {
        "name": "windlass-postgres",
        "key": "uri",
    }
    assert variables["WINDLASS_RELEASE_NAMESPACE"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert variables["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    for name, key in [("BUCKET", "bucket"), ("ACCESS_KEY", "accessKey"), ("SECRET_KEY", "secretKey")]:
        ref = variables[f"WINDLASS_S3_{name}"]["valueFrom"]["secretKeyRef"]
        assert ref == {"name": "windlass-s3", "key": key}
    for name, key in [("ENDPOINT", "endpoint"), ("REGION", "region")]:
        assert variables[f"WINDLASS_S3_{name}"]["valueFrom"]["secretKeyRef"]["key"] == key
    assert variables["HTTPS_PROXY"]["value"] == "http://proxy:3128"


@pytest.mark.parametrize("values", INSTALLS)
def test_no_variable_is_set_twice(values: Object) -> None:
    for name, pod in pods(render(values)):
        for container in containers(pod):
            assert len(env(container)) == len(container.get("env", [])), name


def test_without_an_object_store_nothing_of_it_is_set() -> None:
    for _, pod in pods(render()):
        for container in containers(pod):
            assert not any(name.startswith("WINDLASS_S3") for name in env(container))


@pytest.mark.parametrize("component", ["operator", "api"])
def test_the_ledger_is_migrated_before_a_process_starts(component: str) -> None:
    pod = one(render(), "Deployment", f"windlass-{component}")["spec"]["template"]["spec"]
    (migrate,) = pod["initContainers"]
    assert migrate["args"] == ["migrate"]
    assert migrate["image"] == pod["containers"][0]["image"], "one release brings its own schema"
    for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")]:
        assert pod["containers"][0][probe]["httpGet"]["path"] == path


def test_the_only_hook_is_the_test() -> None:
    """A migration as a hook would wait for a database that the same release has not made yet."""
    hooks = [o for o in render(EVERYTHING) if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    assert [o["metadata"]["annotations"]["helm.sh/hook"] for o in hooks] == ["test"]
    assert (
        f"http://windlass-api.{NAMESPACE}.svc.cluster.local:8080/readyz" in hooks[0]["spec"]["containers"][0]["args"][0]
    )


def test_a_drain_takes_one_api_pod_at_a_time() -> None:
    objects = render()
    assert one(objects, "Deployment", "windlass-api")["spec"]["replicas"] == 2
    assert one(objects, "PodDisruptionBudget", "windlass-api")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("values", INSTALLS)
def test_a_registry_for_all_images(values: Object) -> None:
    objects = render({**values, "global": {"imageRegistry": "mirror.example.com/team"}, "image": {"tag": "1.2.3"}})
    images = {container["image"] for _, pod in pods(objects) for container in containers(pod)}
    images |= {
        env(c)["WINDLASS_RUNNER_IMAGE"]["value"] for _, p in pods(objects) for c in p["containers"] if len(env(c)) > 3
    }
    expected = {"operator", "runner"} | ({"postgres"} if "postgres" in values else set())
    assert images == {f"mirror.example.com/team/windlass/{name}:1.2.3" for name in expected}


def test_placement_holds_for_every_pod_of_the_release() -> None:
    for name, pod in pods(render(EVERYTHING)):
        for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets"):
            assert pod[field] == EVERYTHING[field], name


# CRDs


def test_the_crds_are_the_generated_ones() -> None:
    rendered = {o["metadata"]["name"]: o["spec"] for o in select(render(), "CustomResourceDefinition")}
    committed = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert rendered == {crd["metadata"]["name"]: crd["spec"] for crd in committed}


@pytest.mark.parametrize("keep", [True, False])
def test_crds_outlive_the_release_if_asked_to(keep: bool) -> None:
    for crd in select(render({"crds": {"keep": keep}}), "CustomResourceDefinition"):
        assert crd["metadata"].get("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})


def test_crds_may_come_from_elsewhere() -> None:
    assert not select(render({"crds": {"install": False}}), "CustomResourceDefinition")


# Admission policy


def test_the_policy_guards_every_field_of_a_run_but_cancel() -> None:
    policy = one(render(), "ValidatingAdmissionPolicy", "windlass-run-spec")["spec"]
    fields = {field.alias for field in RunSpec.model_fields.values()} - {"cancel"}
    guarded = {rule["message"].split()[0].removeprefix("spec.") for rule in policy["validations"]}
    assert guarded == fields
    for rule in policy["validations"]:
        assert "spec.cancel" in rule["message"], "it says what to do instead"
    assert policy["matchConstraints"]["resourceRules"][0]["resources"] == ["runs"], "statuses are none of its business"
    assert policy["matchConstraints"]["resourceRules"][0]["operations"] == ["UPDATE"]


def test_the_policy_of_approvals_guards_every_field() -> None:
    policy = one(render(), "ValidatingAdmissionPolicy", "windlass-approval")["spec"]
    fields = {str(field.alias) for field in ApprovalSpec.model_fields.values()}
    said = [rule.get("message", "") for rule in policy["validations"]]
    assert {text.split()[0].removeprefix("spec.") for text in said if "cannot be changed" in text} == fields
    assert policy["failurePolicy"] == "Fail"
    assert policy["matchConstraints"]["resourceRules"][0]["operations"] == ["CREATE", "UPDATE"]
    assert policy["matchConstraints"]["resourceRules"][0]["resources"] == ["approvals"]


@pytest.mark.parametrize("release", ["windlass", "durable"])
def test_only_the_releases_own_operator_writes_for_others(release: str) -> None:
    objects = render(release=release)
    (policy,) = [o for o in select(objects, "ValidatingAdmissionPolicy") if o["metadata"]["name"].endswith("-approval")]
    (deployment,) = [o for o in select(objects, "Deployment") if o["metadata"]["name"].endswith("-operator")]
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    variables = {variable["name"]: variable["expression"] for variable in policy["spec"]["variables"]}
    assert variables["byOperator"] == f'request.userInfo.username == "system:serviceaccount:{NAMESPACE}:{account}"'


def test_the_time_for_which_approvals_stay_reaches_the_operator() -> None:
    (container,) = one(render({"approvals": {"ttlAfterFinished": "90s"}}), "Deployment", "windlass-operator")["spec"][
        "template"
    ]["spec"]["containers"]
    values = {name: entry["value"] for name, entry in env(container).items() if "value" in entry}
    read = Config.from_env({"WINDLASS_POSTGRES_URI": "postgresql:///", **values})
    assert read.approval_ttl.total_seconds() == 90


def test_the_policy_can_be_left_out() -> None:
    objects = render({"admissionPolicy": {"enabled": False}})
    assert not select(objects, "ValidatingAdmissionPolicy")
    assert not select(objects, "ValidatingAdmissionPolicyBinding")


def test_a_missing_helm_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELM", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(rendering, "ROOT", Path("/nonexistent"))
    rendering.helm.cache_clear()
    with pytest.raises(HelmMissingError, match="make cluster-up"):
        rendering.helm()
    rendering.helm.cache_clear()


def test_the_image_of_the_database_is_no_part_of_the_package(tmp_path: Path) -> None:
    import tarfile

    run_helm("package", CHART, "--destination", tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
        names = archive.getnames()
    assert "windlass/templates/crds/tasks.windlass.dev.yaml" in names
    assert not [name for name in names if "/postgres/" in name]
