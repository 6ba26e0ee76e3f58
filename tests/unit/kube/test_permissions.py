"""The doctor asks for exactly what the chart grants: what is missing on either side is found here."""

from pathlib import Path

import pytest
import yaml

from windlass_operator.kube.permissions import Process, of

GOLDEN = Path(__file__).parents[1] / "chart" / "golden"


def _granted(file: str, process: Process) -> set[str]:
    roles = yaml.safe_load((GOLDEN / file).read_text())[f"windlass-system/windlass-{process}"]
    found = set()
    for role, rules in roles.items():
        where = "the cluster" if role.startswith("whole cluster") else role.split(" ")[0]
        for rule in rules:
            verbs, _, what = rule.partition(": ")
            resources, _, name = what.partition(" named ")
            group, _, names = resources.partition("/")
            for resource in names.split(","):
                plain = resource.removeprefix(f"{group}/")
                full = plain if group == "core" else f"{plain}.{group}"
                named = f" {name}" if name else ""
                found |= {f"{verb} {full}{named} in {where}" for verb in verbs.split(",")}
    return found


@pytest.mark.parametrize("process", ["operator", "api"])
@pytest.mark.parametrize(
    ("file", "namespaces"), [("rbac-whole-cluster.yaml", ()), ("rbac-listed-namespaces.yaml", ("billing", "shop"))]
)
def test_what_the_doctor_asks_for_is_what_the_chart_grants(
    process: Process, file: str, namespaces: tuple[str, ...]
) -> None:
    asked = {str(permission) for permission in of(process, namespaces, "windlass-system")}
    assert asked == _granted(file, process)
