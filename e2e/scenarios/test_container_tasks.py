"""Container tasks on a real cluster: any image, its command, and what a user sees of it."""

import json
import os
import subprocess
import time
from typing import Any

import pytest
import yaml

from e2e.cluster import archives, containers
from e2e.cluster.programs import find_go
from e2e.cluster.settings import Settings
from e2e.support import ROOT, Space, a_run, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

BUSYBOX = "docker.io/windlass/busybox:dev"
AS_NOBODY = {"spec": {"securityContext": {"runAsUser": 65532}}}


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


def test_the_pods_of_container_tasks_give_the_command_no_credential(ns: Space) -> None:
    ns.apply(a_script("slow", "echo on it; sleep 600") + "---\n" + a_run("look", "slow"))
    pod = json.loads(kubectl("get", "pod", ns.pod_of("look", state="Running"), "-n", ns.name, "-o", "json"))
    (main,) = pod["spec"]["containers"]
    assert "credential" not in json.dumps(main).lower()
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_what_keeps_a_container_from_starting_is_the_runs_reason(ns: Space) -> None:
    ns.apply(a_script("noimage", "true", image="docker.io/windlass/missing:none") + "---\n" + a_run("pull", "noimage"))
    ns.apply(a_script("root", "true", podTemplate={}) + "---\n" + a_run("root", "root"))
    ns.apply(a_script("typo", "true", command=["/bin/nothing-like-this"]) + "---\n" + a_run("typo", "typo"))
    ns.wait("pull", state="Queued", reason="ImagePullFailed")
    assert "runAsNonRoot" in ns.wait("root", state="Queued", reason="ImageRunsAsRoot")["message"]
    status = ns.wait("typo", state="Failed", reason="CommandNotStarted")
    assert status["message"].endswith("/bin/nothing-like-this: No such file or directory.")


def test_a_command_that_uses_too_much_memory_fails_as_the_users_own(ns: Space) -> None:
    script = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}"
    ns.apply(a_script("hungry", script, retry={"maxAttempts": 1}) + "---\n" + a_run("hungry", "hungry"))
    status = ns.wait("hungry", state="Failed")
    assert (status["failures"], status["error"]["type"]) == ({"user": 1, "infra": 0}, "OutOfMemory")


def test_a_cancelled_command_may_clean_up(ns: Space) -> None:
    script = "trap 'echo cleaned up; exit 0' TERM; echo on it; sleep 600 & wait"
    ns.apply(a_script("slow", script) + "---\n" + a_run("stop", "slow"))
    ns.wait_for_log("stop", "on it")
    kubectl("patch", "runs.windlass.dev", "stop", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    ns.wait("stop", state="Cancelled")
    assert ns.windlass("runs", "logs", "stop").stdout.splitlines() == ["on it", "cleaned up"]


def test_a_command_that_takes_too_long_is_timed_out(ns: Space) -> None:
    ns.apply(a_script("slow", "sleep 600", timeout="2s") + "---\n" + a_run("late", "slow"))
    ns.wait("late", state="TimedOut")


def test_the_example_survives_its_pod_without_charging_twice(ns: Space) -> None:
    text = (ROOT / "examples/container.yaml").read_text()
    ns.apply(text.replace("docker.io/library/busybox:1.37", BUSYBOX))
    ns.wait_for_log("parcel-1", "shipping takes a while ...")
    kubectl("delete", "pod", ns.status("parcel-1")["podName"], "-n", ns.name, "--force", "--grace-period=0")
    status = ns.wait("parcel-1", state="Succeeded")
    assert status["result"] == {"receipt": {"charged": 7}, "parcel": "parcel-7"}
    assert status["steps"] == {"succeeded": 2, "failed": 0, "running": 0, "waiting": 0}
    assert ns.windlass("runs", "logs", "parcel-1").stdout.count("charging 7") == 1


def test_a_drained_pod_hands_its_run_over_without_any_budget(ns: Space) -> None:
    script = 'echo on it; test "$WINDLASS_ATTEMPT" != 1 || sleep 600'
    ns.apply(a_script("slow", script) + "---\n" + a_run("drained", "slow"))
    ns.wait_for_log("drained", "on it")
    kubectl("delete", "pod", ns.status("drained")["podName"], "-n", ns.name, "--wait=false")
    status = ns.wait("drained", state="Succeeded")
    assert (status["failures"], status["attempt"]) == ({"user": 0, "infra": 0}, 2)


def test_commands_that_finish_while_their_pods_are_drained_are_not_run_again(ns: Space) -> None:
    script = "echo begun; sleep $(cat $WINDLASS_PAYLOAD_FILE); echo finished"
    runs = {f"run-{n}": n / 2 for n in range(8)}
    ns.apply("---\n".join([a_script("short", script), *(a_run(k, "short", payload=v) for k, v in runs.items())]))
    until = time.monotonic() + 120
    # Whatever runs is drained as soon as it is seen: some before the claim, some in the middle, some at the very end.
    while not all(ns.status(name).get("state") == "Succeeded" for name in runs) and time.monotonic() < until:
        kubectl("delete", "pod", "-n", ns.name, "--field-selector=status.phase=Running", "--wait=false")
    for name in runs:
        assert ns.wait(name, state="Succeeded")["failures"] == {"user": 0, "infra": 0}
        assert ns.windlass("runs", "logs", name).stdout.splitlines() == ["begun", "finished"]


@pytest.fixture(scope="session")
def go_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example in Go, as the only file of an image, in the node."""
    settings = Settings.from_environment()
    if settings.existing:
        pytest.skip("an existing cluster has no way in for an image that is not in a registry")
    folder, name = tmp_path_factory.mktemp("go"), "docker.io/windlass/example-go:test"
    subprocess.run(
        [find_go(), "build", "-trimpath", "-o", folder / "parcel", "."],
        cwd=ROOT / "examples/container-go",
        env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"},
        check=True,
    )
    archives.pack(folder / "image.tar", name, [archives.File("/parcel", folder / "parcel")], [])
    containers.import_image(settings, name, folder / "image.tar", "test")
    return name


def test_a_go_program_in_an_empty_image_keeps_its_step_over_a_failure(ns: Space, go_image: str) -> None:
    task = a_script("go", "", image=go_image, command=["/parcel"], retry={"maxAttempts": 2, "minDelay": "100ms"})
    ns.apply(task + "---\n" + a_run("go", "go", payload={"orderId": 7}))
    status = ns.wait("go", state="Succeeded")
    assert (status["result"], status["attempt"]) == ({"receipt": "receipt-7", "parcel": "parcel-7"}, 2)
    log = ns.windlass("runs", "logs", "go").stdout.splitlines()
    assert log == ["charging 7", "the carrier does not answer", "shipping"]
