"""The command line as people, systems outside, and pipelines use it."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator

import pytest

from e2e import invariants
from e2e.pages import Job, blocks, shell
from e2e.support import SYSTEM, Space, a_run, a_task, address, environment, kubectl, run

pytestmark = pytest.mark.usefixtures("release")

WORK = """
@step
def charge(order):
    print("charging", order, flush=True)
    return order
@task
def main(order=None):
    if order == {"bad": True}:
        raise PermanentError("out of stock")
    return {"done": charge(order)}
"""


def test_kubectl_finds_the_plugin_and_its_exit_codes_tell_what_became_of_a_run(ns: Space) -> None:
    ns.apply(a_task("order", WORK))
    started = run("kubectl", "windlass", "run", "order", "-p", '{"n": 1}', "--follow", "-n", ns.name)
    assert started.stdout.splitlines() == ["charging {'n': 1}", '{"done": {"n": 1}}']
    assert "step charge succeeded" in started.stderr
    failed = run("kubectl", "windlass", "run", "order", "-p", '{"bad": true}', "-f", "-n", ns.name, check=False)
    assert (failed.returncode, "out of stock" in failed.stderr) == (1, True)
    assert run("kubectl", "windlass", "run", "order", "-p", "{", "-n", ns.name, check=False).returncode == 2
    unknown = run("kubectl", "windlass", "run", "nothing", "-n", ns.name, check=False)
    assert (unknown.returncode, unknown.stderr.splitlines()[0].split(":")[0]) == (3, "TaskNotFound")


def test_kubectl_completes_the_plugin_with_names_that_exist(ns: Space) -> None:
    ns.apply(a_task("order", WORK) + "---\n" + a_run("order-1", "order"))
    ns.wait("order-1", state="Succeeded")
    for words, expected in (
        (["run", "-n", ns.name, "or"], "order"),
        (["runs", "logs", "-n", ns.name, "order-"], "order-1"),
        (["runs", "list", "--state", "fa"], "Failed"),
    ):
        said = run("kubectl", "__complete", "windlass", *words).stdout
        assert expected in said.splitlines(), f"{words}: {said}"


def test_lists_are_filtered_and_come_in_the_form_that_is_asked_for(ns: Space) -> None:
    ns.apply(a_task("order", WORK))
    good = ns.windlass("run", "order", "--tag", "eu").stdout.strip()
    bad = ns.windlass("run", "order", "-p", '{"bad": true}', "--tag", "us").stdout.strip()
    for each in (good, bad):
        ns.windlass("runs", "get", each, "--watch", "--timeout", "60s", check=False)

    def listed(*filters: str) -> list[str]:
        return ns.windlass("runs", "list", "-o", "name", *filters).stdout.split()

    assert listed() == [bad, good]
    assert listed("--sort", "created") == [good, bad]
    assert listed("--state", "failed") == listed("--tag", "us") == listed("--error", "of stock") == [bad]
    assert listed("--task", "order", "--since", "1h", "--state", "Succeeded", "--state", "Queued") == [good]
    assert listed("--before", "1h") == []
    assert ns.windlass("runs", "list", "-o", "wide").stdout.splitlines()[0].split()[-1] == "TAGS"
    shown = ns.windlass("runs", "get", good).stdout
    assert re.search(r"^charge +succeeded +1 ", shown, re.MULTILINE)
    assert json.loads(ns.windlass("runs", "get", good, "-o", "json").stdout)["result"] == {"done": None}


def test_a_terminal_shows_steps_while_they_run_and_the_log_above_them(ns: Space) -> None:
    ns.apply(a_task("order", WORK))
    here, there = pty.openpty()
    env = {**environment(), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    env.pop("CI", None)
    command = ["windlass", "run", "order", "-p", "7", "--follow", "-n", ns.name]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=env)
    os.close(there)
    screen = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # what a terminal answers once its last writer is gone
            break
        if not part:
            break
        screen += part
    os.close(here)
    assert process.wait(60) == 0
    text = screen.decode()
    assert "charging 7" in text
    assert "✓" in text
    assert "\x1b[" in text
    assert '{"done": 7}' in text


def test_doctors_find_a_sound_installation_sound(ns: Space) -> None:
    said = ns.windlass("doctor", check=False)
    assert said.returncode == 0, said.stdout
    states = {line[6:20].strip(): line[:4].strip() for line in said.stdout.splitlines()}
    assert states == dict.fromkeys(
        ["cluster", "resources", "control plane", "api", "versions", "token", "ledger", "permissions"], "ok"
    )
    for process in ("operator", "api"):
        words = ["exec", "-n", SYSTEM, f"deploy/windlass-{process}", "-c", process, "--", "windlass-operator"]
        inside = run("kubectl", *words, "doctor", "--process", process, check=False)
        assert inside.returncode == 0, inside.stdout + inside.stderr
        assert "listed, written, read and deleted" in inside.stdout or "None is configured" in inside.stdout


def test_the_doctor_finds_that_ledger_and_cluster_agree_while_runs_are_running(ns: Space) -> None:
    forever = "import time\n@task\ndef main():\n    time.sleep(600)\n"
    ns.apply(a_task("order", WORK) + "---\n" + a_task("endless", forever))
    ns.apply("---\n".join([a_run("done", "order"), a_run("goes-on", "endless"), a_run("no-task", "missing")]))
    ns.wait("done", state="Succeeded")
    ns.wait("goes-on", state="Running")
    ns.wait("no-task", reason="TaskNotFound")
    invariants.agree(ns)
    at_the_api = run(
        *("kubectl", "exec", "-n", SYSTEM, "deploy/windlass-api", "-c", "api", "--"),
        *("windlass-operator", "doctor", "--verify-ledger"),
        check=False,
    )
    assert re.search(r"skip +I4 +pods_there .*forbidden.* The operator's pod may: run it there.", at_the_api.stdout)


def test_the_doctor_says_what_to_grant_and_granting_it_helps(ns: Space) -> None:
    kubectl("create", "serviceaccount", "poor", "-n", ns.name)
    said = ns.windlass("doctor", "--service-account", "poor", check=False)
    assert said.returncode == 3
    [line] = [line for line in said.stdout.splitlines() if "→" in line]
    assert f"fail  permissions   In namespace {ns.name}, system:serviceaccount:{ns.name}:poor may not" in said.stdout
    grant = line.partition("→ ")[2].partition(" (or ")[0]
    run(*grant.split())
    assert ns.windlass("doctor", "--service-account", "poor").returncode == 0


def test_the_page_about_triggering_from_outside_works_as_it_stands(
    ns: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ns.apply(a_task("process-order", WORK))
    folder = tmp_path_factory.mktemp("outside")
    account, token, windlass, curl, doctor = blocks("trigger-from-outside.md", "sh", shop=ns.name)
    shell(account, folder)
    shell(token, folder)
    with address() as url:
        # Nothing but address and token: no kubeconfig that could help.
        bare = {"KUBECONFIG": "/nowhere"}
        outside = windlass.replace("https://windlass.example.com", url)
        assert shell(outside, folder, bare).stdout.splitlines()[-1] == '{"done": {"orderId": 7}}'
        variables = outside.splitlines()[0] + "\n"
        assert json.loads(shell(variables + curl, folder, bare).stdout) == {"done": {"orderId": 8}}
        said = shell(variables + doctor, folder, bare).stdout
        assert f"ok    token         The API knows you as system:serviceaccount:{ns.name}:webshop." in said
        refused = shell(variables + f"windlass runs list -n {SYSTEM}", folder, bare, check=False)
        assert (refused.returncode, refused.stderr[:9]) == (3, "Forbidden")


@pytest.fixture
def job(ns: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """The job of the page about GitHub Actions, with the account that the page makes for it."""
    folder = tmp_path_factory.mktemp("github")
    account, kubeconfig = blocks("github-actions.md", "sh", shop=ns.name)
    shell(account, folder)
    shell(kubeconfig, folder)
    [workflow] = blocks("github-actions.md", "yaml")
    programs = folder / "bin"
    programs.mkdir()
    # The command line is here already, and this checkout's; only that the step asks for the right thing is tested.
    (programs / "pip").write_text('#!/bin/sh\n[ "$*" = "install windlass[cli]" ]\n')
    (programs / "pip").chmod(0o755)
    env = {"PATH": f"{programs}:{environment()['PATH']}", "KUBECONFIG": "/nowhere", "CI": "true"}
    env |= {"GITHUB_SHA": "0123abc", "GITHUB_RUN_ID": "42"}
    secrets = {"WINDLASS_KUBECONFIG": (folder / "ci-kubeconfig").read_text()}
    yield Job(workflow, folder, env, secrets)
    for role in (f"ci-{ns.name}-find", f"ci-{ns.name}-forward"):
        kubectl("delete", "role,rolebinding", role, "-n", SYSTEM)


def _report(ns: Space, code: str) -> None:
    ns.apply(a_task("report", f"@task\ndef main(asked):\n    {code}\n"))


def test_a_github_job_triggers_a_run_waits_and_has_its_result(ns: Space, job: Job) -> None:
    _report(ns, "print('reporting', flush=True); return asked")
    assert job.run() == ("", None)
    assert json.loads((job.folder / "report.json").read_text()) == {"commit": "0123abc"}
    [listed] = json.loads(ns.windlass("runs", "list", "--tag", "github-42", "-o", "json").stdout)
    assert listed["id"] in job.summary.read_text()


def test_a_github_job_fails_with_its_run_and_says_why(ns: Space, job: Job) -> None:
    _report(ns, "raise PermanentError('no figures')")
    name, step = job.run()
    assert step is not None
    assert (name, step.returncode) == ("Wait for its end", 1)
    job.run_step("Say why it failed")
    assert "no figures" in job.summary.read_text()


def test_a_github_job_that_is_cancelled_cancels_its_run(ns: Space, job: Job) -> None:
    _report(ns, "import time; time.sleep(300)")
    assert job.run(stop_before="Wait for its end") == ("", None)
    job.run_step("Cancel the run with the job")
    run_id = ns.windlass("runs", "list", "-o", "name").stdout.strip()
    ended = ns.windlass("runs", "get", run_id, "--watch", "--timeout", "60s", "-o", "json", check=False)
    assert json.loads(ended.stdout.splitlines()[-1])["state"] == "Cancelled"
