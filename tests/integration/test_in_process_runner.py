"""A runner whose runs share a process: what it asks for and reports, and what it survives. The API is a fake."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_reusable_runner import runner, until
from tests.support.fake_runtime import FakeRuntime, fake_runtime
from windlass_runner import exit_codes

QUICK = "@task\nasync def main():\n    return 7\n"
TALKS = "@task\nasync def main():\n    print('here')\n    return 7\n"
IN_PROCESS = {"WINDLASS_EXECUTION": "InProcess"}


@pytest.fixture
def api() -> Iterator[FakeRuntime]:
    with fake_runtime() as fake:
        fake.slots = 20
        yield fake


@pytest.mark.parametrize("code", [QUICK, TALKS])
def test_runs_that_end_together_are_reported_in_one_call_which_brings_as_many(api: FakeRuntime, code: str) -> None:
    api.submit(code, 200)
    with runner(api, **IN_PROCESS) as process:
        until(lambda: len(api.ended()) == 200)
        assert process.poll() is None
    assert api.results() == [7] * 200
    assert api.most_open <= api.slots
    assert api.calls["ends"] < 150
    assert not api.calls["complete"]
    assert len(api.lines()) == (200 if code == TALKS else 0)


def test_an_answer_that_is_lost_with_the_ends_loses_no_run(api: FakeRuntime) -> None:
    api.lose["ends"] = 5
    api.submit(QUICK, 100)
    with runner(api, **IN_PROCESS):
        until(lambda: len(api.results()) == 100)
        assert not api.open()


def test_an_outage_is_waited_out(api: FakeRuntime) -> None:
    api.submit(QUICK, 100)
    with runner(api, **IN_PROCESS):
        until(lambda: len(api.ended()) > 10)
        api.down = 10
        until(lambda: len(api.results()) == 100)


def test_ends_that_are_refused_keep_no_others(api: FakeRuntime) -> None:
    api.submit(
        "@task\nasync def main():\n    print('on it', flush=True)\n    await __import__('asyncio').sleep(1)\n", 5
    )
    with runner(api, **IN_PROCESS):
        until(lambda: len(api.lines()) == 5)
        closed = api.open()[0]
        api.closed.add(closed.claimed.token)
        until(lambda: len(api.ended()) == 4)
        api.submit(QUICK, 30)
        until(lambda: len(api.results()) == 34)
    assert not closed.ending


def test_a_module_that_ends_its_process_ahead_ends_the_pod_in_the_end(api: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    with runner(api, WINDLASS_PRELOAD="deadly", PYTHONPATH=str(tmp_path), **IN_PROCESS) as process:
        api.submit("", 1, entrypoint="deadly:main", baked=True)
        assert process.wait(30) == exit_codes.ZYGOTE_BROKEN
    (failure,) = api.failures()
    assert failure["type"] == "EntrypointImportFailed"


def test_a_pod_that_is_told_to_leave_ends_with_its_process(api: FakeRuntime) -> None:
    api.submit(QUICK, 3)
    with runner(api, **IN_PROCESS) as process:
        until(lambda: len(api.results()) == 3)
        api.leave = True
        assert process.wait(30) == exit_codes.DONE
