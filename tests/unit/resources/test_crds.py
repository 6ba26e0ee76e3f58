"""The rendered CRDs: committed, structural, bounded, and telling their reader something."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass_operator.resources import crd, pages
from windlass_operator.resources.crd_kinds import KINDS

ROOT = Path(__file__).resolve().parents[3]
CRDS = [make() for make in KINDS]


def _schema(document: dict[str, Any]) -> Any:
    return document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(node.get(part), dict):
            yield from _nodes(node[part], f"{path}[]")


NODES = [
    pytest.param(node, id=f"{document['spec']['names']['kind']}{path}")
    for document in CRDS
    for path, node in _nodes(_schema(document))
]


def test_committed_crds_match_the_models() -> None:
    assert crd.differences(ROOT) + pages.differences(ROOT) == [], "run `make generate`"


def test_the_check_names_what_differs(tmp_path: Path) -> None:
    crd.write(tmp_path)
    assert crd.differences(tmp_path) == []
    (tmp_path / "crds/tasks.windlass.dev.yaml").write_text("stale")
    (tmp_path / "crds/runs.windlass.dev.yaml").unlink()
    (tmp_path / "crds/old.windlass.dev.yaml").write_text("left over")
    assert crd.differences(tmp_path) == [
        "crds/tasks.windlass.dev.yaml is stale",
        "crds/runs.windlass.dev.yaml is missing",
        "crds/old.windlass.dev.yaml has no model",
    ]
    crd.write(tmp_path)
    assert crd.differences(tmp_path) == []


def test_the_command_exits_with_one_and_says_how_to_mend(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/reference", tmp_path / "docs/reference")
    command = [sys.executable, "-m", "windlass_operator.resources.generate", "--root", str(tmp_path)]
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "make generate" in checked.stderr
    subprocess.run([*command, "--write"], check=True)
    subprocess.run([*command, "--check"], check=True)


def test_a_page_whose_generated_part_is_stale_or_gone_is_named(tmp_path: Path) -> None:
    reference = tmp_path / "docs/reference"
    shutil.copytree(ROOT / "docs/reference", reference)
    page = reference / "reasons.md"
    text = page.read_text()
    page.write_text(text.replace("`TaskNotFound`", "`TaskGone`"))
    assert pages.differences(tmp_path) == ["docs/reference/reasons.md is stale"]
    pages.write(tmp_path)
    assert page.read_text() == text
    page.write_text("no markers")
    assert pages.differences(tmp_path) == ["docs/reference/reasons.md has no markers"]


@pytest.mark.parametrize("node", NODES)
def test_schemas_are_structural(node: dict[str, Any]) -> None:
    assert not node.keys() & {"$ref", "$defs", "allOf", "oneOf", "not", "const", "title"}
    assert node.get("additionalProperties") is not False
    assert "type" in node or node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-int-or-string")
    if "anyOf" in node:
        assert node["x-kubernetes-int-or-string"], "the only alternative that a structural schema may have"


@pytest.mark.parametrize("node", NODES)
def test_everything_has_a_bound(node: dict[str, Any]) -> None:
    """CEL's cost estimate assumes the worst, and etcd holds what nobody bounded."""
    free = node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time":
        assert "maxLength" in node or node.get("description", "").rstrip(".") in (
            "windlass.dev/v1alpha1",
            "Task",
            "Run",
            "Approval",
            "Queue",
            "WorkerPool",
        )
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node and not free:
        assert "maxProperties" in node


@pytest.mark.parametrize("document", CRDS, ids=lambda document: document["spec"]["names"]["kind"])
def test_every_field_says_what_it_is(document: dict[str, Any]) -> None:
    for path, node in _nodes(_schema(document)):
        if path in ("", ".metadata") or path.endswith("[]"):
            continue
        assert node.get("description", "").endswith((".", "…")), f"{path} has no sentence"


def test_columns_are_the_documented_ones() -> None:
    columns = CRDS[1]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == ["State", "Task", "Attempt", "Reason", "Age"]
    assert [c["name"] for c in columns if c.get("priority") == 1] == ["Pod", "Duration"]
    columns = CRDS[2]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == ["State", "Task", "Question", "By", "Age"]


@pytest.mark.parametrize(("document", "short"), [(CRDS[0], "wt"), (CRDS[1], "wr"), (CRDS[2], "wa")])
def test_names_are_the_documented_ones(document: dict[str, Any], short: str) -> None:
    names = document["spec"]["names"]
    assert names["shortNames"] == [short]
    assert names["categories"] == ["windlass"]
    assert document["spec"]["group"] == "windlass.dev"
    assert document["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_a_pool_can_be_scaled_by_others() -> None:
    assert CRDS[4]["spec"]["names"]["shortNames"] == ["wp"]
    assert CRDS[4]["spec"]["versions"][0]["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }
    spec = _schema(CRDS[4])["properties"]["spec"]["properties"]
    assert "default" not in spec["replicas"], "absent: Windlass decides"
    assert (spec["minReplicas"]["default"], spec["maxReplicas"]["default"], spec["slots"]["default"]) == (0, 10, 1)
    assert (spec["scaleDownAfter"]["default"], spec["reuse"]["default"]) == ("5m", {"maxAge": "1h"})


def test_defaults_stand_in_the_schema() -> None:
    spec = _schema(CRDS[0])["properties"]["spec"]["properties"]
    assert spec["retry"]["default"] == {
        "maxAttempts": 3,
        "minDelay": "1s",
        "factor": 2,
        "maxDelay": "60s",
        "jitter": "full",
    }
    assert (spec["startTimeout"]["default"], spec["ttlAfterFinished"]["default"]) == ("10m", "1h")
    assert (spec["isolation"]["enum"], spec["isolation"]["default"]) == (["Pod", "Pool"], "Pod")


def test_what_does_not_work_yet_is_absent() -> None:
    run = _schema(CRDS[1])["properties"]["spec"]["properties"]
    assert not run.keys() & {"concurrencyKey", "queue", "priority"}


def test_null_is_allowed_where_absence_is() -> None:
    spec = _schema(CRDS[0])["properties"]["spec"]["properties"]
    assert spec["timeout"]["nullable"]
    assert "nullable" not in spec["ttlAfterFinished"]
    assert "default" not in spec["timeout"]


def test_only_cancel_of_a_run_may_change() -> None:
    spec = _schema(CRDS[1])["properties"]["spec"]
    ruled = {rule["fieldPath"].removeprefix(".") for rule in spec["x-kubernetes-validations"]}
    # The payload is free-form, which CEL in a CRD cannot see: the chart's ValidatingAdmissionPolicy guards it.
    assert ruled == set(spec["properties"]) - {"payload"}


def test_of_an_approval_only_the_decision_may_change_and_only_once() -> None:
    spec = _schema(CRDS[2])["properties"]["spec"]
    ruled = {rule["fieldPath"].removeprefix(".") for rule in spec["x-kubernetes-validations"]}
    assert ruled == set(spec["properties"]) - {"details"}, "free-form: the chart's policy guards it"
    once = [rule for rule in spec["x-kubernetes-validations"] if "oldSelf.decision" in rule["rule"]]
    assert {rule["fieldPath"] for rule in once} == {".decision", ".by", ".comment"}


def test_braces_do_not_become_templates() -> None:
    wrapped = crd.for_chart("kind: X\nmetadata:\n  name: x\ndescription: a {{ b }}\n")
    assert 'a {{ "{{" }} b }}' in wrapped


def test_the_text_has_no_anchors() -> None:
    for path, text in crd.render().items():
        if path.parts[0] == "crds":
            assert "&id" not in text
            assert yaml.safe_load(text) in CRDS
