"""Tasks and Runs as people write them, and what becomes of junk."""

from datetime import timedelta
from typing import Any

import pytest

from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.resources.run import RunError, RunSpec, RunStatus
from windlass_operator.resources.task import RetrySpec, TaskSpec
from windlass_operator.resources.worker_pool import WorkerPoolSpec

TASK: dict[str, Any] = {
    "image": "docker.io/windlass/runner:dev",
    "entrypoint": "order:process_order",
    "source": {"inline": "from windlass import task\n"},
    "retry": {"maxAttempts": 5, "minDelay": "500ms", "factor": 3, "maxDelay": "1h30m", "jitter": "none"},
    "timeout": "2d",
    "attemptTimeout": "90s",
    "startTimeout": "1m",
    "queue": "payments",
    "priority": 60,
    "standby": 2,
    "payloadSchema": {"type": "object", "required": ["orderId"]},
    "env": [
        {"name": "MODE", "value": "live"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}},
    ],
    "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": 1, "memory": "256Mi"}},
    "podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}},
    "ttlAfterFinished": "10m",
}
POOLED = {"isolation": "Pool", "pool": "fast"}


def test_a_task_is_read_whole() -> None:
    spec = TaskSpec.from_object(TASK)
    assert spec.retry.policy() == RetryPolicy(
        max_attempts=5,
        min_delay=timedelta(milliseconds=500),
        factor=3,
        max_delay=timedelta(minutes=90),
        jitter="none",
    )
    assert spec.timeout_duration == timedelta(days=2)
    assert spec.attempt_timeout_duration == timedelta(seconds=90)
    assert spec.start_timeout_duration == timedelta(minutes=1)
    assert spec.ttl_after_finished_duration == timedelta(minutes=10)
    assert spec.env_objects() == TASK["env"]
    assert spec.resources.to_object() == TASK["resources"]


def test_a_task_comes_out_as_it_went_in() -> None:
    spec = TaskSpec.from_object(TASK).to_object()
    assert spec == {**TASK, "isolation": "Pod"}


def test_the_defaults_are_the_domains() -> None:
    spec = TaskSpec.from_object({"entrypoint": "a:b"})
    assert spec.retry.policy() == RetryPolicy()
    assert spec.timeout_duration is None
    assert spec.attempt_timeout_duration is None
    assert spec.start_timeout_duration == timedelta(minutes=10)
    assert spec.ttl_after_finished_duration == timedelta(hours=1)


def test_a_field_of_a_newer_release_is_ignored() -> None:
    assert TaskSpec.from_object({"entrypoint": "a:b", "queue": "payments"}).entrypoint == "a:b"


@pytest.mark.parametrize("entrypoint", ["order:run", "shop.order:run", "order:Shop.run", "_a:_b"])
def test_entrypoints_name_a_module_and_a_function(entrypoint: str) -> None:
    assert TaskSpec.from_object({"entrypoint": entrypoint}).entrypoint == entrypoint


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"entrypoint": "order"}, "spec.entrypoint"),
        ({"entrypoint": "order:"}, "spec.entrypoint"),
        ({"entrypoint": "../order:run"}, "spec.entrypoint"),
        ({"entrypoint": "a" * 600 + ":b"}, "spec.entrypoint"),
        ({"timeout": "forever"}, "spec.timeout"),
        ({"timeout": "99999999999999999999d"}, "spec.timeout"),
        ({"timeout": 30}, "spec.timeout"),
        ({"retry": {"maxAttempts": 0}}, "spec.retry.maxAttempts"),
        ({"retry": {"minDelay": "1d", "maxDelay": "1h"}}, "spec.retry"),
        ({"retry": {"jitter": "some"}}, "spec.retry.jitter"),
        ({"isolation": "Node"}, "spec.isolation"),
        ({"isolation": "Pool"}, "spec.isolation"),
        ({"pool": "fast"}, "spec.pool"),
        ({"env": [{"name": "A"}, {"name": "B-C"}]}, "spec.env[1].name"),
        ({"env": {"A": "b"}}, "spec.env"),
        ({"source": {}}, "spec.source.inline"),
        ({"podTemplate": []}, "spec.podTemplate"),
    ],
)
def test_a_wrong_task_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ResourceInvalidError) as caught:
        TaskSpec.from_object({**TASK, **change}, at="spec")
    assert caught.value.field == field
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"entrypoint": "a:b", "command": ["x"]}, "set exactly one of entrypoint"),
        ({}, "set exactly one of entrypoint"),
        ({"entrypoint": "a:b", "args": ["x"]}, "args go with command"),
        ({"command": ["x"], "source": {"inline": "x = 1"}}, "source goes with entrypoint"),
        ({"command": []}, "spec.command: "),
        ({"command": "x"}, "spec.command: "),
        ({"command": ["x", 7]}, "spec.command[1]: "),
    ],
)
def test_a_task_is_a_function_or_a_command_and_the_error_says_so(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(ResourceInvalidError) as caught:
        TaskSpec.from_object(spec, at="spec")
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"entrypoint": None, "command": ["x"]}, "spec.command"),
        ({"resources": {"limits": {"memory": "1Gi"}}}, "spec.resources"),
        ({"podTemplate": {"spec": {}}}, "spec.podTemplate"),
        ({"standby": 2}, "spec.standby"),
    ],
)
def test_what_the_pods_of_a_pool_share_no_task_may_set(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ResourceInvalidError) as caught:
        TaskSpec.from_object({"entrypoint": "a:b", **POOLED, **change}, at="spec")
    assert caught.value.field == field


def test_a_task_in_a_pool_may_have_its_code_with_it() -> None:
    body = {"entrypoint": "a:b", **POOLED, "source": {"inline": "x = 1"}, "env": [{"name": "A"}]}
    spec = TaskSpec.from_object(body, at="spec")
    assert (spec.isolation, spec.pool) == ("Pool", "fast")


def test_a_pool_is_not_smaller_than_its_fewest() -> None:
    with pytest.raises(ResourceInvalidError) as caught:
        WorkerPoolSpec.from_object({"minReplicas": 5, "maxReplicas": 2}, at="spec")
    assert caught.value.field == "spec.minReplicas"
    assert caught.value.message == "spec.minReplicas: 5 is more than maxReplicas, 2. Raise maxReplicas or lower this."


def test_only_runs_that_share_a_process_have_it_replaced_after_some() -> None:
    shared = {"execution": "InProcess", "maxRunsPerProcess": 500}
    assert WorkerPoolSpec.from_object(shared, at="spec").template()["maxRunsPerProcess"] == 500
    with pytest.raises(ResourceInvalidError) as caught:
        WorkerPoolSpec.from_object({"maxRunsPerProcess": 500}, at="spec")
    assert caught.value.field == "spec.maxRunsPerProcess"


def test_a_pool_that_does_not_say_how_runs_are_executed_keeps_its_pods_over_an_upgrade() -> None:
    template = WorkerPoolSpec.from_object({}, at="spec").template()
    assert sorted(template) == ["maxAgeSeconds", "maxRuns", "podTemplate", "resources", "slots"]


@pytest.mark.parametrize("junk", [None, [], "x", 7, {"entrypoint": None}, {"entrypoint": {"a": []}}])
def test_junk_is_an_error_with_a_message(junk: Any) -> None:
    with pytest.raises(ResourceInvalidError):
        TaskSpec.from_object(junk, at="spec")


@pytest.mark.parametrize("payload", [None, {}, {"orderId": 7, "note": None}, [1, None], "text", 7, False, ""])
def test_any_json_is_a_payload(payload: Any) -> None:
    spec = RunSpec.from_object({"taskRef": {"name": "order"}, "payload": payload})
    assert spec.payload == payload


def test_a_payload_nested_thousands_deep_does_no_harm() -> None:
    deep: Any = 0
    for _ in range(3000):
        deep = [deep]
    assert RunSpec.from_object({"taskRef": {"name": "order"}, "payload": deep}).payload is deep


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.taskRef"),
        ({"taskRef": {"name": "Order"}}, "spec.taskRef.name"),
        ({"taskRef": {"name": "a..b"}}, "spec.taskRef.name"),
        ({"taskRef": {"name": "a", "version": 0}}, "spec.taskRef.version"),
        ({"taskRef": {"name": "a"}, "tags": ["x"] * 11}, "spec.tags"),
        ({"taskRef": {"name": "a"}, "tags": ["x" * 129]}, "spec.tags[0]"),
        ({"taskRef": {"name": "a"}, "traceparent": "00-1-2-3"}, "spec.traceparent"),
    ],
)
def test_a_wrong_run_names_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ResourceInvalidError) as caught:
        RunSpec.from_object(spec, at="spec")
    assert caught.value.field == field


def test_a_status_is_never_refused_for_its_length() -> None:
    status = RunStatus(message="x" * 100_000, current_step="y" * 5000)
    assert status.message is not None
    assert len(status.message) == 4096
    assert status.message.endswith("…")
    assert len(status.current_step or "") == 1024


def test_null_inside_a_result_survives() -> None:
    status = RunStatus(state="Succeeded", result={"a": None, "b": [None]}, next_attempt_at=None)
    assert status.to_object() == {"state": "Succeeded", "result": {"a": None, "b": [None]}, "conditions": []}


def test_the_class_of_an_error_is_called_class() -> None:
    assert RunError(type="ValueError", message="no", failure_class="user").to_object() == {
        "type": "ValueError",
        "message": "no",
        "class": "user",
    }


def test_python_names_work_in_python() -> None:
    assert RetrySpec(max_attempts=2, min_delay="2s").to_object()["maxAttempts"] == 2
