"""How the end of a child is read."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from windlass import protocol
from windlass_runner import memory, outcome
from windlass_runner.memory import Container

MIB = 1 << 20
BEFORE = Container(kills=2, limit=256 * MIB)
KILLED = -signal.SIGKILL


def test_what_a_child_writes_is_read_back() -> None:
    complete = protocol.CompleteRequest(result=msgspec.Raw(b"[1]"))
    assert outcome.decode(outcome.encode(complete, None)) == (complete, None, "")
    assert outcome.decode(outcome.encode(None, None)) == (None, None, "")
    assert outcome.decode(outcome.encode(None, None, left="suspended")) == (None, None, "suspended")


@pytest.mark.parametrize("junk", [b"", b"[", b"[1,2]", b"null", b"[null,null][null,null]", b"\xff\x00"])
def test_what_user_code_writes_into_the_pipe_is_no_result(junk: bytes) -> None:
    assert outcome.decode(junk) is None


@pytest.mark.parametrize(
    ("peak", "used", "charged"),
    [
        (256 * MIB, 10 * MIB, "user"),  # the kernel's peak knows more than a heartbeat of seconds ago
        (None, 250 * MIB, "user"),
        (None, None, "user"),  # nothing known: a container that has a limit reached it, as a rule
        (100 * MIB, 90 * MIB, "infra"),
        (None, 90 * MIB, "infra"),
    ],
)
def test_a_lack_of_memory_is_charged_to_the_code_if_it_had_reached_its_limit(
    peak: int | None, used: int | None, charged: str
) -> None:
    after = Container(kills=3, limit=256 * MIB, peak=peak)
    failure = outcome.crash(KILLED, BEFORE, after, used)
    assert failure.failure_class == charged
    assert failure.type == ("OutOfMemory" if charged == "user" else "NodeOutOfMemory")
    assert outcome.zygote_died(KILLED, BEFORE, after, used, imported=True).failure_class == charged


def test_without_a_limit_a_lack_of_memory_is_the_nodes() -> None:
    assert outcome.crash(KILLED, Container(), Container(kills=1), 90 * MIB).failure_class == "infra"


def test_a_lack_of_memory_says_how_much_was_used_and_allowed() -> None:
    message = outcome.crash(KILLED, BEFORE, Container(3, 256 * MIB, 256 * MIB), 200 * MIB).message
    assert "200 MiB at the last heartbeat, the limit is 256 MiB" in message
    assert "spec.resources.limits.memory" in message


def test_a_kill_that_is_not_the_kernels_is_a_crash_of_the_code() -> None:
    failure = outcome.crash(KILLED, BEFORE, BEFORE, None)
    assert (failure.type, failure.failure_class) == ("ChildCrashed", "user")
    assert "SIGKILL" in failure.message


@pytest.mark.parametrize(("code", "says"), [(-11, "SIGSEGV"), (-40, "signal 40"), (0, "exit code 0"), (3, "code 3")])
def test_every_way_to_end_has_words(code: int, says: str) -> None:
    assert says in outcome.crash(code, BEFORE, BEFORE, None).message


def test_a_zygote_that_had_imported_is_nobodys_fault_and_before_that_the_modules() -> None:
    assert outcome.zygote_died(KILLED, BEFORE, BEFORE, None, imported=True).failure_class == "infra"
    assert outcome.zygote_died(3, BEFORE, BEFORE, None, imported=False).failure_class == "permanent"
    assert outcome.zygote_died(-11, BEFORE, BEFORE, None, imported=False).failure_class == "user"


def test_memory_is_read_from_either_version_of_control_groups(tmp_path: Path) -> None:
    two = _files(tmp_path / "two", {"memory.events": "low 0\noom 4\noom_kill 3\n", "memory.max": "268435456\n"})
    assert memory.container(str(two)) == Container(3, 256 * MIB, None)
    (two / "memory.peak").write_text("1000\n")
    (two / "memory.max").write_text("max\n")
    assert memory.container(str(two)) == Container(3, None, 1000)
    files = {
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.max_usage_in_bytes": "5\n",
    }
    assert memory.container(str(_files(tmp_path / "one", files))) == Container(1, None, 5)
    assert memory.container(str(tmp_path / "none")) == Container()


def test_memory_of_a_session_is_that_of_all_its_processes(tmp_path: Path) -> None:
    after = "0 " * 16
    _files(
        tmp_path,
        {
            "10/stat": f"10 (py ) (x) S 1 10 10 {after}1000 7 0\n",
            "11/stat": f"11 (sh) S 10 11 10 {after}1000 3 0\n",
            "12/stat": f"12 (other) S 1 12 12 {after}1000 100 0\n",
            "13/stat": "13 (half",
            "self/stat": "",
        },
    )
    page = os.sysconf("SC_PAGE_SIZE")
    assert memory.Sessions(str(tmp_path)).of(10) == 10 * page
    assert memory.Sessions(str(tmp_path)).of(99) is None


def _files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
