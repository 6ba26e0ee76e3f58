"""Metrics: bounded labels, no old numbers, and requests by the template of their route."""

import subprocess
import sys
import time
from typing import Any

import pytest
from prometheus_client import generate_latest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.testclient import TestClient

from windlass_operator import metrics
from windlass_operator.api.measured import Measured
from windlass_operator.metrics import OTHER, LedgerLook, Look, TaskLabels, bounded, describe
from windlass_operator.resources.reasons import Reason
from windlass_operator.services.recorder import reason_label

UNBOUNDED = {
    "run",
    "run_id",
    "attempt",
    "attempt_id",
    "pod",
    "pod_name",
    "path",
    "message",
    "key",
    "step",
    "user",
    "uid",
}


def imported_with(*modules: str) -> list[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def sample(name: str, labels: dict[str, str]) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_tasks_beyond_the_bound_share_one_pair_of_labels() -> None:
    labels = TaskLabels(limit=2)
    assert [labels("shop", f"task-{n}") for n in range(4)] == [
        ("shop", "task-0"),
        ("shop", "task-1"),
        (OTHER, OTHER),
        (OTHER, OTHER),
    ]
    assert labels("shop", "task-1") == ("shop", "task-1")


def test_the_runs_of_tasks_beyond_the_bound_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "task_labels", TaskLabels(limit=1))
    found = bounded([(("a", "x", "Queued"), 1), (("a", "y", "Queued"), 2), (("b", "z", "Queued"), 3)])
    assert found == {("a", "x", "Queued"): 1, (OTHER, OTHER, "Queued"): 5}


def test_no_object_of_kubernetes_can_be_called_as_the_others_are() -> None:
    assert not OTHER[0].isalnum()


@pytest.mark.parametrize("reason", [Reason.LEASE_EXPIRED, "EvictionByEvictionAPI"])
def test_a_known_reason_is_its_own_label(reason: str) -> None:
    assert reason_label(reason) == str(reason)


@pytest.mark.parametrize("reason", [None, "", "MyOperatorSaysSo-7f3a"])
def test_any_other_reason_shares_one(reason: str | None) -> None:
    assert reason_label(reason) == OTHER


def test_no_label_is_one_that_grows_with_runs() -> None:
    for found in describe():
        assert not UNBOUNDED & set(found.labels), found.name


def test_every_metric_has_our_prefix_a_unit_where_it_has_one_and_a_sentence() -> None:
    for found in describe():
        assert found.name.startswith("windlass_")
        assert found.help.endswith("."), found.name
        assert (found.kind == "counter") == found.name.endswith("_total"), found.name
    names = [found.name for found in describe()]
    assert len(names) == len(set(names))


def test_what_is_described_is_what_is_served() -> None:
    look = {gauge.name: {tuple("x" for _ in gauge.labels): 1.0} for gauge in metrics.LEDGER_GAUGES}
    metrics.ledger_look.show(Look(look))
    try:
        text = generate_latest(metrics.REGISTRY).decode()
    finally:
        metrics.ledger_look.show(None)
    served = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE windlass_")}
    assert served == {found.name for found in describe()}


def test_the_look_of_a_leader_that_stopped_looking_vanishes() -> None:
    shown = LedgerLook(fresh=60)
    shown.show(Look({"windlass_leader": {(): 1}}))
    assert {family.name for family in shown.collect()} >= {"windlass_leader"}
    shown.show(Look({"windlass_leader": {(): 1}}, at=time.monotonic() - 61))
    assert list(shown.collect()) == []
    shown.show(None)
    assert list(shown.collect()) == []


def test_a_request_is_measured_by_the_template_of_its_route_and_never_by_its_path() -> None:
    async def get(_: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    inner = Router([Route("/api/things/{name}", get)])
    client = TestClient(Router([Mount("/", Measured(inner))]))
    client.get("/api/things/0123-secret")
    client.request("BREW", "/api/things/0123-secret")
    client.get("/nothing/0123-secret")
    text = generate_latest(metrics.REGISTRY).decode()
    assert "0123-secret" not in text
    of_thing = {"method": "GET", "route": "/api/things/{name}", "status": "2xx"}
    assert sample("windlass_http_request_seconds_count", of_thing) == 1
    assert "BREW" not in text


def test_opentelemetrys_sdk_is_not_imported_by_a_process_that_does_not_trace() -> None:
    # Its API is imported by the web framework, and does nothing.
    found = imported_with("windlass_operator.processes")
    assert [name for name in found if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))] == []


def test_nothing_of_opentelemetry_is_imported_in_a_runner_pod() -> None:
    found = imported_with(
        "windlass_runner.main", "windlass_runner.supervisor", "windlass_runner.child", "windlass.steps"
    )
    assert [name for name in found if "opentelemetry" in name or name == "windlass.traces"] == []
