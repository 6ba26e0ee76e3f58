"""What people see of a release from outside: metrics, traces at a receiver in the cluster, logs."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from e2e import demo
from e2e.support import SYSTEM, Space, a_run, a_task, kubectl, space
from tests.support import otlp_receiver
from tests.support.otlp_receiver import Receiver
from windlass_operator.metrics import describe

pytestmark = pytest.mark.usefixtures("release")

T = TypeVar("T")
TRACE, CALLER = "ab" * 16, "cd" * 8
FAILS = "@task\ndef main():\n    raise ValueError('no')\n"
ORDER = """
import time
@step
def reserve():
    return 1
@step
def charge():
    time.sleep(60 if current_run().attempt == 1 else 0)
    return 2
@step
def ship():
    if current_run().attempt == 2:
        raise ValueError("no ship")
    return 3
@task
def main():
    return [reserve(), charge(), ship()]
"""


def soon(look: Callable[[], T], enough: Callable[[T], bool], seconds: float = 40) -> T:
    """Return the first answer that is enough."""
    until = time.monotonic() + seconds
    while not enough(seen := look()):
        assert time.monotonic() < until, f"still not after {seconds} s: {seen!r}"
        time.sleep(0.5)
    return seen


def samples(component: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the metrics of all pods of a component, added up as Prometheus would."""
    selector = f"app.kubernetes.io/component={component}"
    pods = kubectl("get", "pods", "-n", SYSTEM, "-l", selector, "-o", "jsonpath={.items[*].metadata.name}").split()
    port = {"api": 8080, "operator": 8081}[component]
    total: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for pod in pods:
        text = kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:{port}/proxy/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                total[key] = total.get(key, 0) + sample.value
    return total


def value(component: str, name: str, **labels: str) -> float:
    """Return the sum of the samples that have these labels."""
    wanted = set(labels.items())
    return sum(v for (found, has), v in samples(component).items() if found == name and wanted <= has)


def test_a_run_that_fails_is_counted_where_it_happened_and_every_metric_is_a_documented_one(ns: Space) -> None:
    ns.apply(a_task("fails", FAILS, retry={"maxAttempts": 2, "minDelay": "0s"}))
    ns.apply(a_run("bad", "fails"))
    ns.wait("bad", state="Failed")
    of = {"namespace": ns.name, "task": "fails"}
    assert value("operator", "windlass_runs_accepted_total", source="resource", **of) == 1
    assert value("api", "windlass_runs_finished_total", state="Failed", **of, **{"class": "user"}) == 1
    assert value("api", "windlass_attempts_ended_total", outcome="Failed", **of) == 2
    assert value("api", "windlass_retries_total", **of) == 1
    assert value("api", "windlass_run_duration_seconds_count", **of) == 1
    assert value("api", "windlass_http_request_seconds_count", route="/runtime/v1/fail", status="2xx") >= 2
    documented = {metric.name for metric in describe()}
    for component in ("operator", "api"):
        for name, _ in samples(component):
            base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            assert base in documented or base.startswith("process_"), name


def test_the_leader_shows_what_the_ledger_holds_now(ns: Space) -> None:
    ns.apply(a_run("early", "later"))
    ns.wait("early", state="Queued", reason="TaskNotFound")
    of = {"namespace": ns.name, "task": "later", "state": "Queued"}
    soon(lambda: value("operator", "windlass_runs", **of), lambda found: found == 1)
    assert value("operator", "windlass_leader") == 1
    assert value("operator", "windlass_runs_held", reason="TaskNotFound") >= 1
    assert value("operator", "windlass_heartbeat_service_age_seconds") < 10
    assert value("api", "windlass_leader") == 0


def test_logs_are_json_that_names_the_run_and_holds_no_credential(ns: Space) -> None:
    ns.apply(a_task("fails", FAILS, retry={"maxAttempts": 1}))
    ns.apply(a_run("bad", "fails", payload="card 4111 1111 1111 1111"))
    run_id = ns.wait("bad", state="Failed")["runId"]
    text = kubectl(
        "logs",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=windlass,app.kubernetes.io/component!=postgres",
        "--all-containers",
        "--tail=-1",
    )
    entries = [json.loads(line) for line in text.splitlines()]
    of_run = [entry for entry in entries if entry.get("run") == run_id]
    assert {entry["message"] for entry in of_run} == {"attempt ended", "run ended"}
    assert {(entry["namespace"], entry["task"]) for entry in of_run} == {(ns.name, "fails")}
    assert any("attempt" in entry for entry in of_run)
    credential = kubectl("get", "secret", "windlass-runner", "-n", ns.name, "-o", "jsonpath={.data}")
    assert credential
    assert "wlr_" not in text
    assert "4111 1111" not in text


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    """Run a receiver of traces in the cluster, let the release send there, and yield its namespace."""
    with space() as made:
        code = Path(otlp_receiver.__file__).read_text("utf-8")
        code += "\nwith receiving('0.0.0.0', 4318):\n    threading.Event().wait()\n"
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
        container = {
            "name": "collector",
            "image": "docker.io/windlass/operator:dev",
            "command": ["python3", "-c", code],
            "securityContext": {**security, "seccompProfile": {"type": "RuntimeDefault"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 4318}, "periodSeconds": 1},
        }
        labels = {"app": "collector"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "collector", "labels": labels}}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "collector"}}
        made.apply(
            yaml.safe_dump_all(
                [
                    {**pod, "spec": {"containers": [container]}},
                    {**service, "spec": {"selector": labels, "ports": [{"port": 4318}]}},
                ]
            )
        )
        kubectl("wait", "--for=condition=Ready", "pod/collector", "-n", made.name, "--timeout=60s")
        before = kubectl(
            "get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "-o", "name"
        ).split()
        demo.install("--set", f"traces.endpoint=http://collector.{made.name}.svc.cluster.local:4318")
        # The predecessor may still lead for a moment, and it sends no traces.
        kubectl("wait", "--for=delete", *before, "-n", SYSTEM, "--timeout=60s")
        try:
            yield made.name
        finally:
            demo.install()


@pytest.mark.alone
def test_one_trace_leads_over_a_lost_pod_and_a_retry_to_the_result(ns: Space, collector: str) -> None:
    ns.apply(a_task("order", ORDER, retry={"maxAttempts": 2, "minDelay": "0s"}))
    run = yaml.safe_load(a_run("order-1", "order"))
    run["metadata"]["annotations"] = {"windlass.dev/traceparent": f"00-{TRACE}-{CALLER}-01"}
    ns.apply(yaml.safe_dump(run))
    pod = ns.pod_of("order-1", currentStep="charge")
    kubectl("delete", "pod", pod, "-n", ns.name, "--force", "--grace-period=0")
    status = ns.wait("order-1", state="Succeeded", seconds=120)
    assert (status["traceId"], status["attempt"], status["failures"]) == (TRACE, 3, {"user": 1, "infra": 1})

    def look() -> Receiver:
        path = f"/api/v1/namespaces/{collector}/services/collector:4318/proxy/"
        return Receiver.of(kubectl("get", "--raw", path))

    # Two processes send, each in its own time.
    seen = soon(look, lambda found: {"run order", "attempt 1"} <= {span.name for span in found.spans})
    assert {span.trace_id for span in seen.spans} == {TRACE}
    attempts = [
        ("attempt 1", ["step reserve", "step charge"]),
        ("attempt 2", ["step charge", "step ship"]),
        ("attempt 3", ["step ship"]),
    ]
    assert seen.tree(CALLER) == [("submit order", [("run order", attempts)])]
    lost = seen.named("attempt 1")
    assert (lost.failed, lost.attributes["windlass.outcome"], lost.attributes["k8s.pod.name"]) == (True, "Lost", pod)
    assert seen.named("attempt 2").attributes["error.type"] == "ValueError"
    # Each process sends what it closed: the operator lost attempts, the API those that reported.
    assert (lost.service, seen.named("attempt 3").service) == ("windlass-operator", "windlass-api")
