"""Values are checked before anything is rendered, and the notes say what comes next."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.chart.rendering import CHART, NAMESPACE, Object, RenderError, render_text, run_helm
from windlass_operator.resources.run import RunSpec
from windlass_operator.resources.task import TaskSpec


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
        ({"traces": {"endpoint": "collector:4318"}}, "endpoint"),
        ({"traces": {"ratio": 2}}, "ratio"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "app.kubernetes.io/name"),
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
    # The last line stands at the margin: a shell takes an indented one for a part of the text.
    example = _notes({}, tmp_path).split("<<'YAML'\n")[1].split("\nYAML\n")[0]
    task, run = yaml.safe_load_all(example)
    assert TaskSpec.from_object(task["spec"]).entrypoint == "hello:hello"
    compile(task["spec"]["source"]["inline"], "hello", "exec")
    assert RunSpec.from_object(run["spec"]).task_ref.name == task["metadata"]["name"]
