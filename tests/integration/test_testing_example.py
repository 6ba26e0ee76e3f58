"""The example of the testing kit, run as its users run it; and the page that shows it."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/testing"
PAGE = (ROOT / "docs/how-to/test-your-tasks.md").read_text()
BLOCKS = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.timeout(300)
async def test_the_example_passes_with_a_postgresql_of_its_own() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "windlass.testing.plugin", "-p", "no:cacheprovider", "."]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "WINDLASS"))}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=EXAMPLE, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "6 passed" in output.decode()


@pytest.mark.parametrize(("file", "code"), BLOCKS)
def test_what_the_page_shows_is_the_example(file: str, code: str) -> None:
    assert len(BLOCKS) == 4
    for part in code.strip().split("\n\n\n"):
        assert part in (EXAMPLE / file).read_text()
