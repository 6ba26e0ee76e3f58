"""Run resources with payloads that not every reader can read: refused in words, and everybody else is served."""

import json

import pytest

from e2e.support import SYSTEM, Space, a_run, a_task, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

HELLO = "@task\ndef main(order=None):\n    return {'hello': order}\n"


def create(ns: Space, name: str, payload: str) -> str:
    """Create a Run from JSON text as it is, as a client of the API would; return what the API server said."""
    meta, spec = json.dumps({"name": name}), f'{{"taskRef": {{"name": "hello"}}, "payload": {payload}}}'
    body = f'{{"apiVersion": "windlass.dev/v1alpha1", "kind": "Run", "metadata": {meta}, "spec": {spec}}}'
    path = f"/apis/windlass.dev/v1alpha1/namespaces/{ns.name}/runs?fieldValidation=Strict"
    done = run("kubectl", "create", "--raw", path, "-f", "-", stdin=body, check=False)
    return done.stdout if done.returncode == 0 else done.stderr


def restarts() -> list[int]:
    """Return how often the operator's containers have restarted."""
    pods = json.loads(kubectl("get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "-o", "json"))
    assert pods["items"]
    return [container["restartCount"] for pod in pods["items"] for container in pod["status"]["containerStatuses"]]


@pytest.mark.alone
@pytest.mark.parametrize("levels", ["[" * 9_900 + "]" * 9_900, '{"a":' * 900 + "1" + "}" * 900], ids=["lists", "maps"])
def test_a_run_of_many_levels_fails_in_words_and_the_operator_serves_the_others(ns: Space, levels: str) -> None:
    before = restarts()
    ns.apply(a_task("hello", HELLO))
    assert '"kind":"Run"' in create(ns, "deep", levels).replace(" ", "")
    # Not through JSON: this process cannot read the object either.
    kubectl("wait", "run/deep", "-n", ns.name, "--for=condition=Finished", "--timeout=60s")
    shown = kubectl("get", "run/deep", "-n", ns.name, "-o", "jsonpath={.status.reason}: {.status.message}")
    assert shown == "PayloadInvalid: spec.payload is nested deeper than 200 levels."
    ns.apply(a_run("after", "hello", payload=7))
    assert ns.wait("after", state="Succeeded")["result"] == {"hello": 7}
    # A successor lists everything anew, the deep Run among it.
    kubectl("delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--grace-period=1")
    ns.apply(a_run("later", "hello", payload=8))
    assert ns.wait("later", state="Succeeded", seconds=90)["result"] == {"hello": 8}
    assert sum(restarts()) <= sum(before)


def test_numbers_and_keys_that_no_reader_agrees_on_are_refused_by_the_api_server(ns: Space) -> None:
    ns.apply(a_task("hello", HELLO))
    for name, payload in {"nan": "NaN", "huge": "1e400", "digits": "7" * 5000, "twice": '{"a": 1, "a": 2}'}.items():
        assert "Error from server" in create(ns, name, payload), name
    create(ns, "nul", r'{"text": "a\u0000b"}')
    assert ns.wait("nul", state="Succeeded")["result"] == {"hello": {"text": "a\0b"}}
    ns.apply(a_run("after", "hello", payload=7))
    ns.wait("after", state="Succeeded")
