"""Pods as the cluster shows them, and what we read. Each file in ``pods/`` is one pod and what is to be seen in it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from windlass_operator.kube.pod_status import PodObservation, Stage, read_pod

CASES: Final = sorted((Path(__file__).parent / "pods").glob("*.yaml"))
DEFAULTS: Final[dict[str, Any]] = {
    "terminating": False,
    "node": None,
    "started_at": None,
    "exit_code": None,
    "problem": None,
    "lost": None,
}


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_a_pod_is_read_as_its_file_says(file: Path) -> None:
    case = yaml.safe_load(file.read_text())
    seen = read_pod(case["pod"], deleted=case.get("deleted", False))
    found = asdict(seen)
    found["started_at"] = seen.started_at.isoformat() if seen.started_at else None
    expected = {**DEFAULTS, **case["expect"]}
    for cause in ("problem", "lost"):
        found[cause] = list(found[cause]) if found[cause] else None
    for name, value in expected.items():
        first, _, rest = name.partition(".")
        assert (found[first][rest] if rest else found[first]) == value, name
    assert seen.pod_key == "0123456789abcdef"
    json.dumps(seen.last_state)


def test_the_last_state_holds_what_explains_an_end() -> None:
    case = yaml.safe_load((Path(__file__).parent / "pods/out-of-memory.yaml").read_text())
    assert read_pod(case["pod"]).last_state == {
        "phase": "Failed",
        "node": "worker-1",
        "container": {
            "terminated": {
                "exitCode": 137,
                "reason": "OOMKilled",
                "startedAt": "2026-05-04T10:00:01Z",
                "finishedAt": "2026-05-04T10:00:09Z",
            }
        },
    }


def test_a_message_of_any_length_is_cut() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "x" * 100_000}
    seen = read_pod({"status": {"phase": "Pending", "conditions": [condition]}})
    assert seen.problem is not None
    assert len(seen.problem.message) == 1_000
    assert len(json.dumps(seen.last_state)) < 2_000


def test_another_container_is_never_taken_for_the_runner() -> None:
    other = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 1, "reason": "OOMKilled"}}}
    assert read_pod({"status": {"phase": "Running", "containerStatuses": [other]}}).problem is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(junk)
def test_junk_is_a_pending_pod_without_a_name(value: Any) -> None:
    seen = read_pod(value)
    assert isinstance(seen, PodObservation)
    assert seen.stage is Stage.PENDING


@given(junk, junk, junk, junk, junk)
def test_junk_at_any_known_place_is_read_without_an_error(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
    container = {"name": "runner", "imageID": a, "state": {"waiting": {"reason": b, "message": c}, "terminated": d}}
    condition = {"type": e, "status": a, "reason": b, "message": c}
    target = {"type": "DisruptionTarget", "status": "True", "reason": d, "message": e}
    known = {"type": "PodScheduled", "status": "False", "reason": a, "message": b}
    status = {"phase": c, "reason": d, "conditions": [condition, target, known, e], "containerStatuses": [container, a]}
    metadata = {"name": a, "namespace": b, "uid": c, "labels": d, "deletionTimestamp": e}
    seen = read_pod({"metadata": metadata, "spec": {"nodeName": a}, "status": status})
    json.dumps(seen.last_state)
    ended = {"name": "runner", "state": {"terminated": {"exitCode": a, "reason": b, "startedAt": c, "message": d}}}
    read_pod({"metadata": a, "spec": b, "status": {"phase": "Failed", "containerStatuses": [ended], "reason": e}})
    read_pod({"metadata": a, "spec": b, "status": {"phase": "Running", "containerStatuses": c, "conditions": d}})
