"""What a command loads: each of these modules costs more than the answer is worth."""

import subprocess
import sys

import pytest

from tests.support.fake_api import FakeApi, a_run

_HEAVY = {"rich", "pydantic", "msgspec", "yaml", "asyncio", "subprocess", "http.client", "email", "random"}
_PROBE = """
import sys
from windlass.cli import main
try:
    main()
finally:
    sys.stderr.write("\\nloaded:" + ",".join(sys.modules))
"""


@pytest.mark.parametrize(
    "words", [["runs", "list"], ["runs", "get", "order-1"], ["runs", "logs", "order-1"], ["--help"]]
)
def test_a_command_that_only_reads_loads_nothing_heavy(api: FakeApi, words: list[str]) -> None:
    api.add(a_run(1, name="order-1", state="Succeeded"))
    done = subprocess.run([sys.executable, "-c", _PROBE, *words], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.rpartition("loaded:")[2].split(","))
    assert "windlass.cli.app" in loaded
    assert loaded & _HEAVY == set()


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from windlass.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "The command line is an extra: pip install 'windlass[cli]'\n",
    )
