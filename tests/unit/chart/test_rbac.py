"""Permissions: golden files, so that each change of them is seen in review, and rules that no golden file may break."""

import os
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.unit.chart.rendering import NAMESPACE, Object, one, render, select

GOLDEN: Final = Path(__file__).parent / "golden"
MODES: Final[dict[str, Object]] = {
    "whole-cluster": {},
    "listed-namespaces": {"namespaces": ["shop", "billing"]},
    "embedded-postgres": {"postgres": {"embedded": {"enabled": True}}},
}
BOUND = [pytest.param(values, id=mode) for mode, values in MODES.items()]


def _permissions(objects: list[Object]) -> dict[str, Any]:
    """Who may do what where, in a form that reads well."""
    roles = {
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]): o["rules"]
        for kind in ("Role", "ClusterRole")
        for o in select(objects, kind)
    }
    granted: dict[str, Any] = {}
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in select(objects, kind):
            where = binding["metadata"].get("namespace")
            ref = binding["roleRef"]
            rules = roles[ref["kind"], where if ref["kind"] == "Role" else None, ref["name"]]
            for subject in binding["subjects"]:
                who = f"{subject['namespace']}/{subject['name']}"
                granted.setdefault(who, {})[f"{where or 'whole cluster'} ({ref['name']})"] = [_line(r) for r in rules]
    for (kind, _, name), rules in roles.items():
        if kind == "ClusterRole" and name.endswith(("-view", "-edit", "-approve")):
            granted[f"people by aggregation: {name}"] = [_line(r) for r in rules]
    return granted


def _line(rule: Object) -> str:
    groups = ",".join(group or "core" for group in rule["apiGroups"])
    named = f" named {','.join(rule['resourceNames'])}" if "resourceNames" in rule else ""
    return f"{','.join(rule['verbs'])}: {groups}/{','.join(rule['resources'])}{named}"


@pytest.mark.parametrize("mode", list(MODES))
def test_permissions_are_the_reviewed_ones(mode: str) -> None:
    permissions = yaml.safe_dump(_permissions(render(MODES[mode])), sort_keys=True, width=200)
    golden = GOLDEN / f"rbac-{mode}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(permissions)
    assert permissions == golden.read_text(), "review the change, then UPDATE_GOLDEN=1"


@pytest.mark.parametrize("values", BOUND)
def test_no_rule_is_a_wildcard_or_a_way_up(values: Object) -> None:
    for kind in ("Role", "ClusterRole"):
        for role in select(render(values), kind):
            for rule in role["rules"]:
                words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
                assert not words & {"*", "escalate", "bind", "impersonate"}
                assert "nonResourceURLs" not in rule


@pytest.mark.parametrize("values", BOUND)
def test_secrets_are_made_and_only_named_ones_are_read(values: Object) -> None:
    for kind in ("Role", "ClusterRole"):
        for role in select(render(values), kind):
            for rule in role["rules"]:
                if "secrets" in rule["resources"]:
                    assert rule["verbs"] == ["create"] or rule["resourceNames"] in (
                        ["windlass-runner"],
                        ["windlass-postgres"],
                    )


def test_listed_namespaces_need_one_permission_in_the_cluster() -> None:
    objects = render(MODES["listed-namespaces"])
    (binding,) = select(objects, "ClusterRoleBinding")
    assert binding["subjects"][0]["name"] == "windlass-api"
    role = one(objects, "ClusterRole", binding["roleRef"]["name"])
    assert [_line(rule) for rule in role["rules"]] == ["create: authentication.k8s.io/tokenreviews"]
    assert {o["metadata"]["namespace"] for o in select(objects, "Role")} == {NAMESPACE, "shop", "billing"}


def test_operator_and_api_have_accounts_of_their_own() -> None:
    objects = render()
    accounts = {
        o["metadata"]["name"]: o["spec"]["template"]["spec"]["serviceAccountName"]
        for o in select(objects, "Deployment")
    }
    assert accounts == {"windlass-operator": "windlass-operator", "windlass-api": "windlass-api"}


def test_the_lease_is_the_one_that_the_operator_takes() -> None:
    from windlass_operator.kube.permissions import LEASE_NAME

    rules = one(render(), "Role", "windlass-operator-lease")["rules"]
    assert [rule.get("resourceNames") for rule in rules] == [None, [LEASE_NAME]]


def test_deciding_is_a_permission_that_whoever_starts_runs_has_not() -> None:
    objects = render()
    approve = one(objects, "ClusterRole", "windlass-approve")
    assert [_line(rule) for rule in approve["rules"]] == ["get,list,watch,update,patch: windlass.dev/approvals"]
    aggregated = {key.rpartition("/")[2] for key in approve["metadata"]["labels"] if key.startswith("rbac.")}
    assert aggregated == {"aggregate-to-admin"}
    assert "approvals" not in one(objects, "ClusterRole", "windlass-edit")["rules"][0]["resources"]


def test_nobody_but_the_operator_may_write_a_status() -> None:
    for role in select(render(), "ClusterRole"):
        for rule in role["rules"]:
            written = [name for name in rule["resources"] if name.endswith("/status")]
            assert not written or role["metadata"]["name"] == "windlass-operator"


def test_people_get_logs_by_a_permission_of_its_own() -> None:
    view = one(render(), "ClusterRole", "windlass-view")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "get: windlass.dev/runs/log" in [_line(rule) for rule in view["rules"]]
    assert not select(render({"rbac": {"aggregate": False}}), "ClusterRole", "windlass-view")
