"""Fresh pods beside others: the same pod for everybody, each body counted once, and what the rows say."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.pod_effects import LostEffectsError, PodEffects, pod_effects
from bench.peers.pod_figures import UNTUNED, Found, Turn, figures, table
from bench.peers.pod_kinds import ARGO, JOBS, KINDS, OURS, PODS, body, our_body
from bench.peers.pods import pods_cpu

FOUND = {
    OURS: Found([0.4, 0.4], [Turn(10.0, 11.0, 0.4)]),
    PODS: Found([0.2, 0.25], [Turn(9.0, 12.0, 0.3)]),
    ARGO: Found([2.0, 2.0], [Turn(40.0, 44.0, 0.9)]),
    UNTUNED: Found([], [Turn(50.0, 55.0, 1.0)]),
}


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def effects() -> Iterator[PodEffects]:
    with pod_effects("127.0.0.1") as made:
        yield made


def test_everybodys_container_is_the_same() -> None:
    [bare] = KINDS[PODS].make("a", "code")["spec"]["containers"]
    [argos] = KINDS[ARGO].make("a", "code")["spec"]["templates"]
    assert {**argos["container"], "name": "main"} == bare
    assert KINDS[JOBS].make("a", "code")["spec"]["template"]["spec"]["containers"] == [bare]


def test_a_body_takes_the_time_before_it_tells_anything_and_is_counted(effects: PodEffects) -> None:
    code = body("pod-1", effects.code, imports=False)
    assert code.index("time.time()") < code.index("import socket")
    _run(code)
    assert effects.wait(["pod-1"], 10)
    [at] = effects.times(["pod-1"])
    assert at > 1_700_000_000


def test_only_crowds_do_a_runners_imports() -> None:
    assert "windlass_runner.main" in body("a", "", imports=True)
    assert "windlass" not in body("a", "", imports=False)


def test_our_body_tells_the_same_as_everybodys(effects: PodEffects) -> None:
    ours = our_body(effects.code)
    compile(ours, "ours", "exec")
    assert ours.index("time.time()") < ours.index("import socket")


def test_a_body_that_ran_twice_ends_the_bench(effects: PodEffects) -> None:
    for _ in range(2):
        _run(body("pod-1", effects.code, imports=False))
    _run(body("pod-2", effects.code, imports=False))
    assert effects.wait(["pod-1", "pod-2"], 10)
    with pytest.raises(LostEffectsError, match="'pod-1': 2"):
        effects.times(["pod-1", "pod-2"])


def test_a_body_that_never_ran_ends_the_bench(effects: PodEffects) -> None:
    assert not effects.wait(["pod-1"], 0.01)
    with pytest.raises(LostEffectsError, match="'pod-1': 0"):
        effects.times(["pod-1"])


def test_who_tells_nothing_disturbs_nobody(effects: PodEffects) -> None:
    socket.create_connection(effects.address).close()
    _run(body("pod-1", effects.code, imports=False))
    assert effects.wait(["pod-1"], 10)


@pytest.mark.parametrize(
    ("name", "status", "seen"),
    [
        (OURS, {"state": "Succeeded"}, True),
        (OURS, {}, False),
        (OURS, {"state": "TimedOut"}, None),
        (PODS, {"phase": "Running"}, False),
        (JOBS, {"succeeded": 1}, True),
        (JOBS, {"failed": 1}, None),
        (ARGO, {"phase": "Succeeded"}, True),
        (ARGO, {"phase": "Error"}, None),
    ],
)
def test_each_kind_says_in_its_own_way_that_it_has_succeeded(
    name: str, status: dict[str, object], *, seen: bool | None
) -> None:
    assert KINDS[name].ended(status) is seen


def test_ours_stands_beside_each_with_the_goals(capsys: pytest.CaptureFixture[str]) -> None:
    made = {(one.name, (one.peer or {}).get("name")): (one.ratio, one.goal) for one in figures(FOUND)}
    first, last = "created → first line of user code, fresh pod", "60 at once, created → last first line"
    assert made[first, None] == (None, "<=0.5")
    assert made[first, PODS] == (1.8, "ratio<=2")
    assert made[last, PODS] == (1.111, "ratio<=1.25")
    assert made[last, "Argo Workflows 3.7.0"] == (0.25, "ratio<=0.333")
    assert made[last, "Argo Workflows 3.7.0 as it comes"] == (0.2, "")
    assert made["60 at once, created → all seen to have succeeded", "Argo Workflows 3.7.0"] == (0.25, "")
    assert "goal ratio<=0.333: met" in capsys.readouterr().out


def test_the_table_has_a_row_for_everybody() -> None:
    lines = table(FOUND)
    assert len(lines) == 2 + len(FOUND)
    rows = "- | 50.00 s (50.00 to 50.00) | 55.00 s (55.00 to 55.00) | 1.00 s (1.00 to 1.00)"
    assert lines[-1] == f"| Argo Workflows 3.7.0 as it comes | {rows} |"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cpuacct/kubepods/cpuacct.usage", "2500000000\n"),
        ("kubepods/cpu.stat", "usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n"),
    ],
)
def test_the_pods_cpu_is_what_their_control_group_says_in_either_version(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert pods_cpu(tmp_path) == 2.5
