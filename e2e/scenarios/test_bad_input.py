"""Mistakes as people make them: each is answered in words that say what to do, and nobody else waits for it.

All Runs of this file are applied at once and fail side by side; each test reads what became of its own.
"""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from e2e.support import SYSTEM, Space, a_run, a_task, kubectl, ledger, query, run, space

pytestmark = pytest.mark.usefixtures("release")

HELLO = "@task\ndef main(order=None):\n    return {'hello': order}\n"
COUNTED = "@task\ndef main():\n    print('ran', flush=True)\n    return 1\n"
HUNGRY = "@task\ndef main():\n    return len(bytearray(b'x') * 400_000_000)\n"
NO_IMPORT = "import os\nimport stock_of_the_shop\n@task\ndef main():\n    pass\n"
BAD_RESULT = "@task\ndef main():\n    return {'orders': [{'id': 1}, {'id': object()}]}\n"
BAD_STEP = """
import threading
@step
def reserve():
    return {'held': [threading.Lock()]}
@task
def main():
    return reserve()
"""
LONG_TASK = f"{'t' * 62}.{'t' * 190}"
"""As long as a name may be. Cut where a label's value ends, the last character would be one that may not be there."""
LONG_RUN = f"{'r' * 62}.{'r' * 190}"
LIMIT = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}


@pytest.fixture(scope="module")
def shop(release: None) -> Iterator[Space]:  # noqa: ARG001 - must be there before the first test
    """Make a namespace in which everything of this file goes wrong at once."""
    with space() as made:
        tasks = [
            a_task("hello", HELLO),
            a_task("brief", COUNTED, ttlAfterFinished="2s"),
            a_task("hungry", HUNGRY, retry={"maxAttempts": 1}, resources=LIMIT),
            a_task("noimport", NO_IMPORT),
            a_task("badresult", BAD_RESULT),
            a_task("badstep", BAD_STEP),
            a_task(LONG_TASK, HELLO),
        ]
        named = [a_run(task, task) for task in ("brief", "hungry", "noimport", "badresult", "badstep")]
        runs = [a_run("unknown", "nowhere"), a_run(LONG_RUN, LONG_TASK, payload="long"), *named]
        made.apply("---\n".join(tasks + runs))
        yield made


def patch(ns: Space, kind: str, name: str, change: dict[str, Any], *more: str) -> str:
    """Merge a change into an object; return what the API server said."""
    words = ("kubectl", "patch", kind, name, "-n", ns.name, "--type=merge", "--patch-file=/dev/stdin", *more)
    done = run(*words, stdin=json.dumps(change), check=False)
    return done.stdout + done.stderr


def test_a_run_of_an_unknown_task_waits_for_it_and_fails_after_its_start_timeout(shop: Space) -> None:
    status = shop.wait("unknown", state="Queued", reason="TaskNotFound")
    assert status["message"].startswith(f"Task 'nowhere' is not in namespace {shop.name!r}. Create it, or pick")
    # Ten minutes pass.
    query("UPDATE run SET held_since = held_since - interval '11 minutes' WHERE id = :'id'", id=status["runId"])
    status = shop.wait("unknown", state="Failed", reason="TaskNotFound")
    assert "'nowhere'" in status["message"]
    assert status["message"].endswith("This lasted for longer than startTimeout (10m).")


def test_an_unknown_task_is_refused_at_once_on_the_command_line(shop: Space) -> None:
    refused = shop.windlass("run", "nowhere", check=False)
    assert refused.returncode == 3
    assert "TaskNotFound" in refused.stderr
    assert "'nowhere'" in refused.stderr


def test_code_that_cannot_be_imported_is_told_by_file_and_line(shop: Space) -> None:
    status = shop.wait("noimport", state="Failed", reason="EntrypointImportFailed")
    assert status["message"].startswith("job.py:3: ")
    assert "stock_of_the_shop" in status["message"]
    assert (status["attempt"], status["error"]["class"]) == (1, "permanent")


def test_code_beyond_its_memory_limit_is_told_so_and_charged_for_it(shop: Space) -> None:
    status = shop.wait("hungry", state="Failed", reason="AttemptsExhausted")
    assert status["failures"] == {"user": 1, "infra": 0}
    assert (status["error"]["type"], status["error"]["class"]) == ("OutOfMemory", "user")
    assert "memory" in status["message"]


def test_a_result_that_cannot_be_saved_is_told_by_step_path_and_type(shop: Space) -> None:
    status = shop.wait("badresult", state="Failed", reason="ResultNotSerializable")
    assert "result" in status["message"]
    assert ".orders[1].id" in status["message"]
    assert "a value of type object" in status["message"]
    status = shop.wait("badstep", state="Failed", reason="ResultNotSerializable")
    assert "result of step 'reserve'" in status["message"]
    assert ".held[0]" in status["message"]
    assert "a value of type _thread.lock" in status["message"]


def test_names_of_253_characters_work_from_the_label_to_the_command_line(shop: Space) -> None:
    status = shop.wait(LONG_RUN, state="Succeeded")
    assert status["result"] == {"hello": "long"}
    assert len(status["podName"]) <= 63
    pod = json.loads(kubectl("get", "pod", status["podName"], "-n", shop.name, "-o", "json"))
    assert pod["metadata"]["labels"]["windlass.dev/task"].startswith("tttt")
    shown = json.loads(shop.windlass("runs", "get", LONG_RUN, "-o", "json").stdout)
    assert (shown["id"], shown["task"]) == (status["runId"], LONG_TASK)
    done = shop.windlass("run", LONG_TASK, "--payload", "1", "--follow")
    assert done.stdout.splitlines() == ['{"hello": 1}']


def test_a_run_that_is_created_again_after_its_ttl_is_bound_and_not_run_again(shop: Space) -> None:
    kubectl("wait", "--for=delete", "runs.windlass.dev/brief", "-n", shop.name, "--timeout=90s")
    [first] = json.loads(shop.windlass("runs", "list", "--task", "brief", "-o", "json").stdout)
    shop.apply(a_run("brief", "brief"))
    status = shop.wait("brief", state="Succeeded", seconds=20)
    assert (status["runId"], status["attempt"]) == (first["id"], 1)
    assert len(json.loads(shop.windlass("runs", "list", "--task", "brief", "-o", "json").stdout)) == 1
    assert shop.windlass("runs", "logs", first["id"]).stdout.splitlines() == ["ran"]


JUNK = "}{ not what anybody expects \u2028 \u0007"
ANNOTATIONS = {
    "kopf.zalando.org/last-handled-configuration": "{junk",
    "windlass.dev/traceparent": "00-junk",
    "shop.example/huge": "x" * 200_000,
}


def test_junk_in_annotations_labels_and_statuses_keeps_nobody_from_running(ns: Space) -> None:
    """Of Tasks, Runs and pods, those of strangers among them."""
    marked = {"annotations": ANNOTATIONS, "labels": {"windlass.dev/run-id": "no.id", "windlass.dev/attempt": "many"}}
    task, asked = (yaml.safe_load(text) for text in (a_task("hello", HELLO), a_run("marked", "hello", payload=1)))
    for body in (task, asked):
        body["metadata"] |= marked
        kubectl("create", "-n", ns.name, "-f", "-", stdin=json.dumps(body))
    status = ns.wait("marked", state="Succeeded", seconds=20)
    pod = status["podName"]

    mimic = {"app.kubernetes.io/managed-by": "windlass", "windlass.dev/pod-key": "0" * 16, "windlass.dev/task": "hello"}
    stranger = json.loads(kubectl("get", "pod", pod, "-n", ns.name, "-o", "json"))
    stranger["metadata"] = {
        "name": "stranger",
        "labels": mimic | stranger["metadata"]["labels"],
        "annotations": ANNOTATIONS,
    }
    stranger["spec"].pop("nodeName")
    stranger.pop("status")
    kubectl("create", "-n", ns.name, "-f", "-", stdin=json.dumps(stranger))
    patch(ns, "pod", pod, {"metadata": {"annotations": ANNOTATIONS, "labels": {"windlass.dev/pod-key": "junk"}}})

    condition = {"type": "Ready", "status": "Unknown", "reason": "Junk", "message": JUNK}
    status_junk = {"version": 999, "conditions": [condition | {"lastTransitionTime": "2001-01-01T00:00:00Z"}]}
    said = patch(ns, "tasks.windlass.dev", "hello", {"status": status_junk}, "--subresource=status")
    assert "patched" in said
    refused = patch(ns, "runs.windlass.dev", "marked", {"status": {"attempt": "many"}}, "--subresource=status")
    assert "status.attempt" in refused

    ns.apply(a_run("after", "hello", payload=2))
    assert ns.wait("after", state="Succeeded", seconds=20)["result"] == {"hello": 2}
    healed = ns.wait("marked", state="Succeeded", runId=status["runId"], seconds=40)
    assert healed["result"] == {"hello": 1}
    ready = json.loads(kubectl("get", "tasks.windlass.dev", "hello", "-n", ns.name, "-o", "json"))["status"]
    assert (ready["version"], ready["conditions"][0]["status"]) == (1, "True")


@pytest.mark.alone
def test_a_run_that_a_restored_older_ledger_does_not_know_is_not_run_again(ns: Space) -> None:
    ns.apply(a_task("hello", COUNTED) + "---\n" + a_run("known", "hello"))
    ns.wait("known", state="Succeeded")
    file = f"/tmp/{secrets.token_hex(4)}.dump"
    ledger("--format=custom", f"--file={file}", program="pg_dump")
    ns.apply(a_run("lost", "hello"))
    lost = ns.wait("lost", state="Succeeded")
    ledger("--clean", "--if-exists", "--single-transaction", file, program="pg_restore")
    kubectl("delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--grace-period=1")
    status = ns.wait("lost", reason="LedgerRegressed", seconds=90)
    assert lost["runId"] in status["message"]
    assert "To run it nevertheless, delete and re-create the Run." in status["message"]
    assert (status["state"], status["podName"]) == ("Succeeded", lost["podName"])
    names = [found["name"] for found in json.loads(ns.windlass("runs", "list", "-o", "json").stdout)]
    assert names == ["known"]
    kubectl("delete", "runs.windlass.dev", "lost", "-n", ns.name)
    ns.apply(a_run("lost", "hello"))
    assert ns.wait("lost", state="Succeeded")["runId"] != lost["runId"]
