"""What users do with Tasks and Runs, on a real cluster."""

import json

import pytest

from e2e.support import SLOW, Space, a_run, a_task, kubectl, run

HELLO = "@task\ndef main(order=None):\n    print('hello')\n    return {'hello': order}\n"


pytestmark = pytest.mark.usefixtures("release")


def test_a_run_and_its_task_in_one_file_work_in_any_order(ns: Space) -> None:
    ns.apply(a_run("first", "hello", payload={"order": 1}) + "---\n" + a_task("hello", HELLO))
    status = ns.wait("first", state="Succeeded")
    assert status["result"] == {"hello": {"order": 1}}
    kubectl("wait", "--for=condition=Succeeded", "runs.windlass.dev/first", "-n", ns.name, "--timeout=5s")


def test_a_run_says_that_its_task_is_missing_and_goes_on_when_it_comes(ns: Space) -> None:
    ns.apply(a_run("early", "later"))
    ns.wait("early", state="Queued", reason="TaskNotFound")
    ns.apply(a_task("later", HELLO))
    ns.wait("early", state="Succeeded")


def test_a_killed_pod_costs_no_attempt_and_repeats_no_finished_step(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("killed", "slow"))
    pod = ns.pod_of("killed", currentStep="two")
    kubectl("delete", "pod", pod, "-n", ns.name, "--force", "--grace-period=0")
    status = ns.wait("killed", state="Succeeded")
    assert status["failures"] == {"user": 0, "infra": 1}
    assert status["podName"] != pod
    assert status["result"] == [1, 2, 3]
    assert ns.windlass("runs", "logs", "killed").stdout.splitlines() == ["one ran"]


def test_a_drained_pod_hands_its_run_over_without_any_budget(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW.replace("sleep(5 ", "sleep(60 ")) + "---\n" + a_run("drained", "slow"))
    pod = ns.pod_of("drained", currentStep="two")
    kubectl("delete", "pod", pod, "-n", ns.name, "--wait=false")
    status = ns.wait("drained", state="Succeeded")
    assert status["failures"] == {"user": 0, "infra": 0}


def test_a_failing_task_is_retried_and_its_last_error_is_shown(ns: Space) -> None:
    code = "@task\ndef main():\n    raise ValueError('out of stock')\n"
    ns.apply(a_task("fails", code, retry={"maxAttempts": 2, "minDelay": "100ms"}) + "---\n" + a_run("bad", "fails"))
    status = ns.wait("bad", state="Failed")
    assert (status["reason"], status["attempt"]) == ("AttemptsExhausted", 2)
    assert status["error"] == {"type": "ValueError", "message": "out of stock", "class": "user"}
    assert ns.windlass("runs", "get", "bad", "-o", "json").returncode == 0


def test_bad_input_is_refused_with_its_place(ns: Space) -> None:
    schema = {"type": "object", "properties": {"order": {"type": "integer"}}}
    ns.apply(a_task("strict", HELLO, payloadSchema=schema) + "---\n" + a_run("wrong", "strict", payload={"order": "x"}))
    status = ns.wait("wrong", state="Failed")
    assert (status["reason"], "payload.order" in status["message"]) == ("PayloadInvalid", True)
    ns.apply(a_task("broken", "def main(:\n") + "---\n" + a_run("syntax", "broken"))
    status = ns.wait("syntax", state="Failed")
    assert (status["reason"], status["message"][:9]) == ("SourceSyntaxError", "job.py:2:")


def test_an_image_that_does_not_exist_is_the_runs_reason_until_it_is_cancelled(ns: Space) -> None:
    ns.apply(a_task("noimage", HELLO, image="docker.io/windlass/missing:none") + "---\n" + a_run("stuck", "noimage"))
    ns.wait("stuck", state="Queued", reason="ImagePullFailed")
    kubectl("patch", "runs.windlass.dev", "stuck", "-n", ns.name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    ns.wait("stuck", state="Cancelled", observedGeneration=2)


def test_a_missing_secret_is_the_reason_and_its_value_stays_out_of_the_log(ns: Space) -> None:
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}}]
    code = "import os\n@task\ndef main():\n    print('key is', os.environ['KEY'])\n"
    ns.apply(a_task("paying", code, env=env) + "---\n" + a_run("pay", "paying"))
    ns.wait("pay", state="Queued", reason="SecretNotFound")
    kubectl("create", "secret", "generic", "stripe", "--from-literal=key=sk-live-1234567", "-n", ns.name)
    ns.wait("pay", seconds=120, state="Succeeded")
    assert ns.windlass("runs", "logs", "pay").stdout.strip() == "key is [redacted]"


def test_the_spec_of_a_run_cannot_be_changed_but_for_cancel(ns: Space) -> None:
    ns.apply(a_task("hello", HELLO) + "---\n" + a_run("fixed", "hello", payload={"order": 1}))
    ns.wait("fixed", state="Succeeded")
    refused = run(
        "kubectl",
        "patch",
        "runs.windlass.dev",
        "fixed",
        "-n",
        ns.name,
        "--type=merge",
        "-p",
        '{"spec":{"payload":{"n":2}}}',
        check=False,
    )
    assert refused.returncode != 0
    assert "cannot be changed" in refused.stderr


def test_deleting_an_unfinished_run_cancels_it_and_its_pod_goes(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW.replace("sleep(5 ", "sleep(60 ")) + "---\n" + a_run("gone", "slow"))
    run_id = ns.wait("gone", currentStep="two")["runId"]
    kubectl("delete", "runs.windlass.dev", "gone", "-n", ns.name)
    found = json.loads(ns.windlass("runs", "get", run_id, "-o", "json").stdout)
    assert (found["state"], found["reason"]) in (("Cancelling", "ResourceDeleted"), ("Cancelled", "Cancelled"))


def test_a_finished_resource_goes_after_its_ttl_and_the_run_stays(ns: Space) -> None:
    ns.apply(a_task("brief", HELLO, ttlAfterFinished="1s") + "---\n" + a_run("brief", "brief"))
    kubectl("wait", "--for=delete", "runs.windlass.dev/brief", "-n", ns.name, "--timeout=60s")
    assert json.loads(ns.windlass("runs", "list", "-o", "json").stdout)[0]["state"] == "Succeeded"


def test_a_run_is_triggered_and_followed_from_the_command_line(ns: Space) -> None:
    ns.apply(a_task("hello", HELLO))
    done = ns.windlass("run", "hello", "--payload", '{"n": 2}', "--follow")
    assert done.stdout.splitlines() == ["hello", '{"hello": {"n": 2}}']
    assert ns.windlass("run", "nothing", check=False).returncode == 3


def test_runner_pods_are_restricted_and_carry_nothing_they_do_not_need(ns: Space) -> None:
    ns.apply(a_task("slow", SLOW) + "---\n" + a_run("look", "slow"))
    pod = json.loads(kubectl("get", "pod", ns.pod_of("look", currentStep="two"), "-n", ns.name, "-o", "json"))
    spec = pod["spec"]
    assert not spec.get("volumes")
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"], spec["restartPolicy"]) == (
        False,
        False,
        "Never",
    )
    assert "credential" not in json.dumps([e.get("value") for e in spec["containers"][0]["env"]])


def test_explain_teaches() -> None:
    text = kubectl("explain", "task.spec.retry", "--api-version=windlass.dev/v1alpha1")
    assert "maxAttempts" in text
    assert "PermanentError" in text
