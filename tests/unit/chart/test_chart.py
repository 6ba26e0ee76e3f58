"""The rendered chart: safe pods, stable text, no secrets in it, and values that are checked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.chart import rendering
from tests.unit.chart.rendering import CHART, NAMESPACE, ROOT, HelmMissingError, Object, RenderError
from tests.unit.chart.rendering import containers, env, one, pods, render, render_text, run_helm, select
from windlass_operator.config import Config
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


def test_the_policy_can_be_left_out() -> None:
    objects = render({"admissionPolicy": {"enabled": False}})
    assert not select(objects, "ValidatingAdmissionPolicy")
    assert not select(objects, "ValidatingAdmissionPolicyBinding")


# Embedded PostgreSQL


def _postgres(values: Object | None = None) -> Object:
    embedded = {"enabled": True, **(values or {})}
    return one(render({"postgres": {"embedded": embedded}}), "StatefulSet", "windlass-postgres")


def test_there_is_no_database_unless_asked_for() -> None:
    assert not [o for o in render() if "postgres" in o["metadata"]["name"]]


def test_the_password_is_made_in_the_cluster_by_the_first_container() -> None:
    pod = _postgres()["spec"]["template"]["spec"]
    (secret,) = pod["initContainers"]
    assert secret["args"] == [
        "bootstrap-postgres",
        "--secret=windlass-postgres",
        f"--host=windlass-postgres.{NAMESPACE}.svc.cluster.local",
    ]
    assert env(pod["containers"][0])["POSTGRES_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
        "name": "windlass-postgres",
        "key": "password",
    }


def test_only_the_first_container_reaches_the_api_server() -> None:
    pod = _postgres()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    mounts = {c["name"]: [m["name"] for m in c["volumeMounts"]] for c in containers(pod)}
    assert "api-access" in mounts["secret"]
    assert "api-access" not in mounts["postgres"]
    assert not [v for v in pod["volumes"] if "secret" in v], "a Secret as a volume would hold up the one that makes it"


def test_the_data_outlives_the_statefulset() -> None:
    spec = _postgres()["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert "storageClassName" not in claim["spec"], "the cluster's default"
    named = _postgres({"persistence": {"storageClassName": "fast", "size": "1Gi"}})["spec"]["volumeClaimTemplates"][0]
    assert named["spec"]["storageClassName"] == "fast"
    assert named["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_without_persistence_the_data_is_in_the_pod() -> None:
    spec = _postgres({"persistence": {"enabled": False}})["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]


# Notes


def _notes(values: Object, tmp_path: Path) -> str:
    # Helm shows notes only when it installs, so they are rendered as a template of a copy of the chart.
    copy = tmp_path / "windlass"
    (copy / "templates").mkdir(parents=True)
    for name in ("Chart.yaml", "values.yaml", "templates/_helpers.tpl"):
        (copy / name).write_text((CHART / name).read_text())
    body = (CHART / "templates/NOTES.txt").read_text()
    (copy / "templates/notes.yaml").write_text(
        '{{- define "notes" }}' + body + '{{- end }}\nnotes: {{ include "notes" . | quote }}\n'
    )
    text = run_helm("template", "windlass", copy, "--namespace", NAMESPACE, "--values", "-", stdin=json.dumps(values))
    return str(yaml.safe_load(text)["notes"])


def test_notes_say_the_next_command(tmp_path: Path) -> None:
    notes = _notes({}, tmp_path)
    assert "helm test windlass -n windlass-system" in notes
    assert "kubectl -n windlass-demo get runs" in notes
    assert "create secret generic windlass-postgres" in notes


def test_notes_name_a_listed_namespace(tmp_path: Path) -> None:
    assert "kubectl -n shop apply" in _notes({"namespaces": ["shop"]}, tmp_path)


@pytest.mark.parametrize("enabled", [True, False])
def test_notes_warn_where_data_dies_with_the_pod(enabled: bool, tmp_path: Path) -> None:
    notes = _notes({"postgres": {"embedded": {"enabled": True, "persistence": {"enabled": enabled}}}}, tmp_path)
    assert ("WARNING" in notes) is not enabled


def test_the_example_of_the_notes_is_valid(tmp_path: Path) -> None:
    from windlass_operator.resources.task import TaskSpec

    example = _notes({}, tmp_path).split("<<'YAML'\n")[1].split("  YAML")[0]
    task, run = yaml.safe_load_all(example)
    assert TaskSpec.from_object(task["spec"]).entrypoint == "hello:hello"
    compile(task["spec"]["source"]["inline"], "hello", "exec")
    assert RunSpec.from_object(run["spec"]).task_ref.name == task["metadata"]["name"]


# Values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"typo": True}, "typo"),
        ({"postgres": {"embeded": {"enabled": True}}}, "embeded"),
        ({"postgres": {"embedded": {"enabled": "yes"}}}, "enabled"),
        ({"api": {"replicas": "two"}}, "replicas"),
        ({"api": {"replicas": -1}}, "replicas"),
        ({"runner": {"identity": "password"}}, "identity"),
        ({"log": {"level": "loud"}}, "level"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"namespaces": "shop"}, "namespaces"),
        ({"namespaces": ["Shop"]}, "namespaces"),
        ({"namespaces": ["a", "a"]}, "namespaces"),
        ({"namespaces": [NAMESPACE]}, "the namespace of the release"),
        ({"postgres": {"existingSecret": ""}}, "existingSecret"),
        ({"extraEnv": [{"name": "WINDLASS_POSTGRES_URI", "value": "x"}]}, "extraEnv"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "podLabels"),
        ({"imagePullSecrets": ["mirror"]}, "imagePullSecrets"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Object, said: str) -> None:
    with pytest.raises(RenderError, match=said):
        render_text(values)


def test_every_value_has_a_description_and_every_description_a_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(node: Object, value: Any, path: str) -> None:
        assert path == "" or node.get("description"), f"{path} has no description"
        if "properties" in node and isinstance(value, dict) and path != "global":
            unset = {"requests", "limits"} if path.endswith("resources") else set()
            assert node["properties"].keys() - unset == value.keys() - unset, path or "the top"
            assert node["additionalProperties"] is False, path
        for name, child in node.get("properties", {}).items():
            compare(child, (value or {}).get(name), f"{path}.{name}".lstrip("."))

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


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
