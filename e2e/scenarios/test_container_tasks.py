"""Container tasks on a real cluster: any image, its command, and what a user sees of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e import demo
from e2e.support import Space, a_run, kubectl, run, space

BUSYBOX = "docker.io/windlass/busybox:dev"
AS_NOBODY = {"spec": {"securityContext": {"runAsUser": 65532}}}


@pytest.fixture(scope="session", autouse=True)
def windlass() -> None:
    """The release, from this checkout."""
    demo.install()
    for name in ("windlass-operator", "windlass-api"):  # the images' tag does not change when their content does
        kubectl("rollout", "restart", f"deploy/{name}", "-n", "windlass-system")
    for name in ("windlass-operator", "windlass-api"):
        kubectl("rollout", "status", f"deploy/{name}", "-n", "windlass-system", "--timeout=120s")


@pytest.fixture
def ns() -> Iterator[Space]:
    with space() as made:
        yield made


def a_script(name: str, script: str, **spec: Any) -> str:
    """Return a container task that runs a shell script in busybox, as YAML."""
    body = {
        "image": BUSYBOX,
        "command": ["sh", "-c", script],
        "podTemplate": AS_NOBODY,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        **spec,
    }
    return yaml.safe_dump(
        {"apiVersion": "windlass.dev/v1alpha1", "kind": "Task", "metadata": {"name": name}, "spec": body}
    )


def test_a_script_gets_its_payload_returns_its_result_and_its_output_is_the_log(ns: Space) -> None:
    kubectl("create", "secret", "generic", "stripe", "--from-literal=key=sk-live-1234567", "-n", ns.name)
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}}]
    script = 'echo "attempt $WINDLASS_ATTEMPT with $KEY"; cp "$WINDLASS_PAYLOAD_FILE" "$WINDLASS_RESULT_FILE"'
    ns.apply(a_script("copy", script, env=env) + "---\n" + a_run("first", "copy", payload={"order": 7}))
    status = ns.wait("first", state="Succeeded")
    assert (status["result"], status["attempt"]) == ({"order": 7}, 1)
    assert ns.windlass("runs", "logs", "first").stdout.splitlines() == ["attempt 1 with [redacted]"]
    echoed = kubectl("logs", status["podName"], "-n", ns.name)  # the runner's container by default
    assert "attempt 1 with [redacted]" in echoed
    assert "sk-live" not in echoed


def test_args_follow_the_command(ns: Space) -> None:
    script = 'printf \'"%s-%s"\' "$@" > $WINDLASS_RESULT_FILE'
    task = a_script("words", "", command=["sh", "-c", script, "sh"], args=["a", "b"])
    ns.apply(task + "---\n" + a_run("words", "words"))
    assert ns.wait("words", state="Succeeded")["result"] == "a-b"


def test_an_exit_code_fails_the_run_with_its_last_lines(ns: Space) -> None:
    script = 'echo "no such order" >&2; exit 7'
    ns.apply(a_script("fails", script, retry={"maxAttempts": 2, "minDelay": "100ms"}) + "---\n" + a_run("bad", "fails"))
    status = ns.wait("bad", state="Failed")
    assert (status["reason"], status["attempt"], status["error"]["type"]) == ("AttemptsExhausted", 2, "CommandFailed")
    assert status["error"]["message"] == "The command exited with code 7. Its last lines:\nno such order"


def test_command_and_entrypoint_together_are_refused_at_once(ns: Space) -> None:
    def refused(**spec: Any) -> str:
        task = a_script("both", "true", **spec)
        done = run("kubectl", "apply", "-n", ns.name, "-f", "-", stdin=task, check=False)
        assert done.returncode != 0
        return done.stderr

    assert "Set exactly one of entrypoint" in refused(entrypoint="job:main")
    assert "source goes with entrypoint" in refused(source={"inline": "x = 1"})


def test_the_pods_of_container_tasks_are_restricted_and_give_the_command_no_credential(ns: Space) -> None:
    ns.apply(a_script("slow", "echo on it; sleep 600") + "---\n" + a_run("look", "slow"))
    pod = json.loads(kubectl("get", "pod", ns.pod_of("look", state="Running"), "-n", ns.name, "-o", "json"))
    (main,) = pod["spec"]["containers"]
    assert "credential" not in json.dumps(main).lower()
    assert pod["spec"]["automountServiceAccountToken"] is False
    kubectl("delete", "runs.windlass.dev", "look", "-n", ns.name)
