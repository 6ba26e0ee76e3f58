"""A runner that takes one run after the other: what it claims, what it reports, and what it survives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_runtime import FakeRuntime, fake_runtime
from windlass_runner import exit_codes

QUICK = "@task\ndef main():\n    return 7\n"
LONG = "import os, time\n@task\ndef main():\n    print('pid', os.getpid(), flush=True)\n    time.sleep(60)\n"


@pytest.fixture
def api() -> Iterator[FakeRuntime]:
    with fake_runtime() as fake:
        yield fake


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.005)
    return found


@contextmanager
def runner(api: FakeRuntime, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Run a runner in a pod of a pool."""
    process = subprocess.Popen(
        [sys.executable, "-m", "windlass_runner"],
        env={
            **os.environ,
            "WINDLASS_URL": api.url,
            "POD_NAME": "pool-1",
            "POD_UID": "uid-1",
            "WINDLASS_CREDENTIAL": "credential-of-the-namespace",
            "WINDLASS_CLAIM_WAIT_MS": "300",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        for pid in descendants(process.pid):  # parents first: who dies must not be reported by those above it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for known in found:
        found += parents.get(known, [])
    return found


def zygote_of(process: subprocess.Popen[str]) -> int:
    """Return the zygote of a runner."""

    def zygotes() -> list[int]:
        return [pid for pid in descendants(process.pid) if "windlass_runner.zygote" in command_of(pid)]

    return int(until(zygotes)[0])  # its children have the same command line


def command_of(pid: int) -> str:
    """Return a process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def spares_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the children that wait for attempts, once there are four and process 1 has heard of all of them."""
    waiting, pipes = [], 0
    for pid in descendants(zygote_of(process))[1:]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
                waiting.append(pid)
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            pipes += str(link.readlink()).startswith("pipe:")
    # Its own output, what wakes it, the output of the zygote, and that of each child: two each.
    return waiting if len(waiting) == 4 and pipes >= 6 + 2 * 4 else []


def pids(api: FakeRuntime) -> list[int]:
    """Return the processes that code has told of."""
    return [int(line.split()[1]) for line in api.lines() if line.startswith("pid ")]


def test_many_runs_go_through_one_pod_and_each_end_brings_the_next(api: FakeRuntime) -> None:
    api.submit(QUICK, 40)
    with runner(api) as process:
        until(lambda: len(api.ended()) == 40)
        assert process.poll() is None
    assert api.results() == [7] * 40
    assert api.most_open <= api.slots
    with_reports = [claim for claim in api.claims if claim[0] == "complete"]
    assert len(with_reports) == 40
    assert len({claim_id for _, claim_id, _ in with_reports}) == 40
    assert len(api.claims) - len(with_reports) < 10, "few claims of their own"


def test_free_slots_are_filled_while_others_run(api: FakeRuntime) -> None:
    api.submit(LONG, 3)
    with runner(api):
        until(lambda: len(pids(api)) == 3)
        api.submit(QUICK, 20)
        until(lambda: len(api.results()) == 20)
        assert len(api.open()) == 3
    assert api.most_open == 4


def test_an_answer_that_is_lost_with_the_end_of_an_attempt_loses_no_run(api: FakeRuntime) -> None:
    api.lose["complete"] = 5
    api.submit(QUICK, 20)
    with runner(api):
        until(lambda: len(api.results()) == 20)
        assert not api.open()


def test_an_api_that_is_away_is_waited_for_by_a_pod_that_has_nothing_to_do(api: FakeRuntime) -> None:
    with runner(api):
        until(lambda: len(api.claims) > 2)
        api.down = 6
        until(lambda: api.down == 0)
        api.submit(QUICK)
        until(lambda: api.results() == [7])


def test_lines_arrive_with_their_own_attempt_before_its_end_and_without_secrets(api: FakeRuntime) -> None:
    body = "import os\n@task\ndef main():\n    print(current_run().id, os.environ['KEY'])\n"
    api.submit(body, 12)
    with runner(api, KEY="s3cr3t-value", WINDLASS_SECRET_ENV="KEY"):
        until(lambda: len(api.ended()) == 12)
        for attempt in api.ended():
            assert attempt.lines == [f"{attempt.claimed.run_id} [redacted]"]


def test_a_pod_that_is_told_to_leave_finishes_what_runs_and_ends(api: FakeRuntime) -> None:
    api.submit("import time\n@task\ndef main():\n    time.sleep(0.5)\n    return 7\n", 2)
    with runner(api) as process:
        until(lambda: len(api.open()) == 2)
        api.leave = True
        assert process.wait(20) == exit_codes.DONE
    assert api.results() == [7, 7]


def test_a_pod_takes_no_more_runs_than_it_may(api: FakeRuntime) -> None:
    api.submit(QUICK, 9)
    with runner(api, WINDLASS_MAX_RUNS="5") as process:
        assert process.wait(20) == exit_codes.DONE
    assert (len(api.results()), len(api.waiting)) == (5, 4)


def test_a_pod_that_is_old_takes_nothing_more_and_ends(api: FakeRuntime) -> None:
    with runner(api, WINDLASS_MAX_AGE="0.7") as process:
        assert process.wait(20) == exit_codes.DONE
    assert api.claims


def test_sigterm_withdraws_the_claim_and_hands_back_what_does_not_end(api: FakeRuntime) -> None:
    api.slots = 3
    api.submit(LONG, 2)
    with runner(api, WINDLASS_GRACE="0.2", WINDLASS_CLAIM_WAIT_MS="20000") as process:
        until(lambda: len(pids(api)) == 2 and api.claims[-1][2] == 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == exit_codes.DONE
    assert [attempt.ending for attempt in api.ended()] == ["release", "release"]
    assert api.withdrawn == [api.claims[-1][1]]
    assert all(is_gone(pid) for pid in pids(api))


def test_sigterm_lets_what_ends_in_time_end(api: FakeRuntime) -> None:
    api.submit(
        "import time\n@task\ndef main():\n    print('pid', 0, flush=True)\n    time.sleep(0.7)\n    return 7\n", 4
    )
    with runner(api) as process:
        until(lambda: len(pids(api)) == 4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == exit_codes.DONE
    assert api.results() == [7] * 4


def test_a_child_that_is_killed_is_a_failure_of_its_own_run_and_of_no_other(api: FakeRuntime) -> None:
    api.submit(LONG, 1)
    with runner(api):
        (pid,) = until(lambda: pids(api))
        api.submit("import time\n@task\ndef main():\n    time.sleep(0.3)\n    return 7\n", 3)
        os.kill(pid, signal.SIGKILL)
        until(lambda: len(api.ended()) == 4)
    (failure,) = api.failures()
    assert failure["type"] == "ChildCrashed"
    assert "SIGKILL" in failure["message"]
    assert api.results() == [7] * 3


def test_attempts_outlive_their_zygote_and_another_serves_the_next(api: FakeRuntime) -> None:
    api.submit(LONG.replace("sleep(60)", "sleep(1)\n    return 7"), 3)
    with runner(api) as process:
        until(lambda: len(pids(api)) == 3)
        first = zygote_of(process)
        os.kill(first, signal.SIGKILL)
        api.submit(QUICK, 5)
        until(lambda: len(api.ended()) == 8)
        assert api.results() == [7] * 8
        assert zygote_of(process) != first
        assert process.poll() is None


def test_what_dies_after_its_zygote_is_still_named(api: FakeRuntime) -> None:
    api.submit(LONG)
    with runner(api) as process:
        (pid,) = until(lambda: pids(api))
        os.kill(zygote_of(process), signal.SIGKILL)
        os.kill(pid, signal.SIGSEGV)
        until(api.ended)
    (failure,) = api.failures()
    assert "SIGSEGV" in failure["message"]


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ("import os\nos._exit(9)\n", "ended with exit code 9 while it imported"),
        ("import os\nos.kill(os.getpid(), 11)\n", "was ended by SIGSEGV while it imported"),
    ],
)
def test_a_module_that_ends_the_zygote_costs_its_own_attempt_only(
    api: FakeRuntime, tmp_path: Path, ends: str, says: str
) -> None:
    (tmp_path / "deadly.py").write_text(ends)
    (tmp_path / "fine.py").write_text("from windlass import task\n@task\ndef main():\n    return 8\n")
    api.submit(LONG, 1)
    api.submit("", 1, entrypoint="deadly:main", baked=True)
    api.submit("", 2, entrypoint="fine:main", baked=True)
    with runner(api, PYTHONPATH=str(tmp_path)) as process:
        until(lambda: len(api.ended()) == 3)
        assert len(api.open()) == 1, "what ran already goes on"
        assert process.poll() is None
    (failure,) = api.failures()
    assert says in failure["message"]
    assert api.results() == [8, 8]


def test_a_module_that_does_not_import_fails_its_attempts_and_no_others(api: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("print('half of it')\nraise ValueError('no')\n")
    api.submit("", 2, entrypoint="broken:main", baked=True)
    api.submit(QUICK, 4)
    with runner(api, PYTHONPATH=str(tmp_path)):
        until(lambda: len(api.ended()) == 6)
    assert [failure["reason"] for failure in api.failures()] == ["EntrypointImportFailed"] * 2
    assert api.results() == [7] * 4
    assert api.lines() == ["half of it"] * 2


def test_a_module_of_the_image_is_imported_once_and_its_output_is_the_first_attempts(
    api: FakeRuntime, tmp_path: Path
) -> None:
    (tmp_path / "baked.py").write_text(
        "import os\nfrom windlass import task\nprint('imported')\nHERE = os.getpid()\n"
        "@task\ndef main():\n    return HERE == os.getppid()\n"
    )
    api.submit("", 6, entrypoint="baked:main", baked=True)
    with runner(api, PYTHONPATH=str(tmp_path)):
        until(lambda: len(api.ended()) == 6)
    assert api.results() == [True] * 6
    assert api.lines() == ["imported"]


def test_a_module_that_has_its_children_waited_for_by_nobody_does_no_harm(api: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "baked.py").write_text(
        "import signal\nfrom windlass import task\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "@task\ndef main():\n    return 7\n"
    )
    api.submit("", 6, entrypoint="baked:main", baked=True)
    with runner(api, PYTHONPATH=str(tmp_path)):
        until(lambda: len(api.ended()) == 6)
    assert api.results() == [7] * 6


def test_numpys_random_numbers_are_others_in_each_fork(api: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").touch()
    (tmp_path / "numpy" / "random.py").write_text("SEEDED = 0\ndef seed():\n    global SEEDED\n    SEEDED += 1\n")
    (tmp_path / "baked.py").write_text(
        "import numpy.random\nfrom windlass import task\n@task\ndef main():\n    return numpy.random.SEEDED\n"
    )
    api.submit("", 3, entrypoint="baked:main", baked=True)
    with runner(api, PYTHONPATH=str(tmp_path)):
        until(lambda: len(api.ended()) == 3)
    assert api.results() == [1, 1, 1]


def test_a_module_that_starts_threads_gets_fresh_interpreters_and_the_others_go_on_being_forked(
    api: FakeRuntime, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nfrom windlass import task\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "@task\ndef main():\n    return threading.active_count()\n"
    )
    (tmp_path / "baked.py").write_text(
        "import os\nfrom windlass import task\nME = os.getpid()\n@task\ndef main():\n    return ME == os.getppid()\n"
    )
    api.submit("", 2, entrypoint="threaded:main", baked=True)
    with runner(api, PYTHONPATH=str(tmp_path)):
        until(lambda: len(api.ended()) == 2)
        api.submit("", 2, entrypoint="threaded:main", baked=True)
        api.submit("", 3, entrypoint="baked:main", baked=True)
        until(lambda: len(api.ended()) == 7)
    assert sorted(map(int, api.results())) == [1, 1, 1, 2, 2, 2, 2]


def test_a_cancelled_run_ends_and_its_neighbours_are_asked_too(api: FakeRuntime) -> None:
    api.heartbeat_ms, api.grace_ms = 50, 300
    api.submit(LONG, 2)
    with runner(api):
        until(lambda: len(pids(api)) == 2)
        api.cancelled = True
        until(lambda: len(api.ended()) == 2)
    assert all(attempt.body.get("cancelled") for attempt in api.ended())
    assert api.calls["heartbeat"] >= 1


def test_an_attempt_that_takes_too_long_is_ended_alone(api: FakeRuntime) -> None:
    api.attempt_timeout_ms, api.grace_ms = 3_000, 100
    api.submit(LONG, 1)
    api.submit(QUICK, 3)
    with runner(api):
        until(lambda: len(api.ended()) == 4)
    (failure,) = api.failures()
    assert failure["class"] == "timeout"


def test_processes_that_code_leaves_behind_end_with_its_run(api: FakeRuntime) -> None:
    body = """
import os, time
@task
def main():
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        print("pid", os.getpid(), flush=True)
        if os.fork() == 0:
            print("pid", os.getpid(), flush=True)
            os.write(write, b"x")
        else:
            os._exit(0)
        for n in (0, 1, 2, write):
            os.close(n)
        time.sleep(60)
    os.read(read, 1)
    return 7
"""
    api.submit(body)
    api.submit(LONG)
    with runner(api):
        until(lambda: len(pids(api)) == 3 and api.results())
        until(lambda: sorted(is_gone(pid) for pid in pids(api)) == [False, True, True])


def test_a_child_finds_neither_the_session_nor_another_attempts_token(api: FakeRuntime) -> None:
    body = """
import re
WORDS = rb"[0-9a-f-]{36}[.][0-9a-f]{32}|session-of[-]the-pod|credential-of[-]the-namespace"
@task
def main():
    found = set()
    for line in open("/proc/self/maps"):
        span, mode = line.split()[:2]
        if not mode.startswith("rw") or "[v" in line:
            continue
        start, end = (int(n, 16) for n in span.split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
        found |= {t.decode() for t in re.findall(WORDS, data)}
    return sorted(found)
"""
    api.submit(body, 6)
    with runner(api):
        until(lambda: len(api.ended()) == 6)
    for attempt in api.ended():
        own, _, _ = attempt.claimed.token.partition(".")
        found = attempt.body["result"]
        assert found, "its own, so that we know that it can find one"
        assert [word for word in found if not word.startswith(own)] == []


def test_children_are_forked_ahead_and_one_that_dies_is_nobodys_attempt(api: FakeRuntime) -> None:
    with runner(api) as process:
        for pid in until(lambda: spares_of(process)):
            os.kill(pid, signal.SIGKILL)
        api.submit(QUICK, 6)
        until(lambda: len(api.ended()) == 6)
        until(lambda: spares_of(process))
    assert api.results() == [7] * 6


def test_an_attempt_whose_child_dies_before_it_has_begun_is_begun_again(api: FakeRuntime) -> None:
    with runner(api) as process:
        spares = until(lambda: spares_of(process))
        for pid in spares:
            os.kill(pid, signal.SIGSTOP)
        api.submit(QUICK, 2)
        until(lambda: len(api.open()) == 2)
        for pid in spares:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(api.ended()) == 2)
    assert api.results() == [7] * 2


def test_a_child_forked_ahead_runs_its_attempt_although_its_zygote_has_died(api: FakeRuntime) -> None:
    with runner(api) as process:
        spares = until(lambda: spares_of(process))
        for pid in spares:
            os.kill(pid, signal.SIGSTOP)
        api.submit("import os\n@task\ndef main():\n    return os.getpid()\n")
        until(api.open)
        os.kill(zygote_of(process), signal.SIGKILL)
        until(lambda: sum(map(is_gone, spares)) == len(spares) - 1)
        for pid in spares:
            if not is_gone(pid):
                os.kill(pid, signal.SIGCONT)
        until(api.ended)
    (found,) = api.results()
    assert found in spares


def test_a_child_that_was_forked_before_a_module_was_imported_does_not_run_its_code(
    api: FakeRuntime, tmp_path: Path
) -> None:
    (tmp_path / "baked.py").write_text(
        "import os\nfrom windlass import task\nHERE = os.getpid()\n"
        "@task\ndef main():\n    return [HERE == os.getppid(), os.getpid()]\n"
    )
    with runner(api, PYTHONPATH=str(tmp_path)) as process:
        before = until(lambda: spares_of(process))
        api.submit("", 1, entrypoint="baked:main", baked=True)
        until(api.ended)
        after = until(lambda: spares_of(process) if all(map(is_gone, before)) else None)
        api.submit("", 1, entrypoint="baked:main", baked=True)
        until(lambda: len(api.ended()) == 2)
    (first, second) = api.results()
    assert (first[0], second[0]) == (True, True)
    assert first[1] not in before
    assert second[1] in after


def test_a_pod_that_is_refused_ends_with_what_runs(api: FakeRuntime) -> None:
    body = "import time\n@task\ndef main():\n    time.sleep(0.5)\n    return 7\n"
    api.submit(body)
    with runner(api) as process:
        until(api.open)
        until(lambda: api.results() == [7])
        import tests.support.fake_runtime as fake

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake, "SESSION", "of another pod")
            assert process.wait(20) == exit_codes.API_UNREACHABLE
