"""The real command line against the real API and a real ledger."""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rest import ALICE, VIEWER, Rest

FINISHED, RUNNING = 1_000, 200
GOAL = 0.2
"""Seconds from the Enter key to the prompt."""
SEED = """
INSERT INTO run (id, project_id, task, state, created_at, finished_at)
SELECT gen_random_uuid(), p.id, 'task-' || n % 10,
       CASE WHEN n <= 200 THEN 'Running' WHEN n % 10 = 0 THEN 'Failed' ELSE 'Succeeded' END,
       now() - n * interval '1 second', CASE WHEN n > 200 THEN now() END
  FROM generate_series(1, 1200) AS n, project AS p WHERE p.namespace = 'shop'
"""


class CommandLine:
    """Runs ``windlass`` as a person would."""

    def __init__(self, url: str, pyc: Path) -> None:
        self._env = {**os.environ, "WINDLASS_URL": url, "WINDLASS_TOKEN": ALICE, "WINDLASS_NAMESPACE": "shop"}
        # As an installed package has it: compiled once, read at each start.
        self._env |= {"PYTHONPYCACHEPREFIX": str(pyc)}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)

    async def __call__(self, *words: str, token: str = ALICE) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        program = Path(sys.executable).with_name("windlass")
        pipe = asyncio.subprocess.PIPE
        env = self._env | {"WINDLASS_TOKEN": token}
        process = await asyncio.create_subprocess_exec(program, *words, stdout=pipe, stderr=pipe, env=env)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def windlass(rest: Rest, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(rest.url, tmp_path_factory.mktemp("pyc"))


async def _seed(rest: Rest) -> None:
    await rest.call("POST", "/api/v1/namespaces/shop/tasks/order/runs", data="{}")
    await rest.world.database.fetch(SEED)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_a_list_among_many_runs_is_there_at_once(
    rest: Rest, windlass: CommandLine, record_property: Callable[[str, object], None]
) -> None:
    await _seed(rest)
    await windlass("runs", "list")
    walls, own = [], []
    for _ in range(10):
        began, before = time.perf_counter(), _children_cpu()
        code, out, _ = await windlass("runs", "list")
        walls.append(time.perf_counter() - began)
        own.append(_children_cpu() - before)
        assert (code, len(out.splitlines())) == (0, 51)
    answers = []
    for _ in range(10):
        began = time.perf_counter()
        await rest.call("GET", "/api/v1/namespaces/shop/runs?limit=50")
        answers.append(time.perf_counter() - began)
    record_property("wall", walls)
    # On an idle machine the command takes what it computes and what the API takes to answer. The wall clock of a busy
    # one measures the other programs; where it keeps the goal all the same, nothing is left to ask.
    assert min(walls) <= GOAL or min(own) + min(answers) <= GOAL, (walls, own, answers)


async def test_every_filter_and_every_page_means_to_the_api_what_it_means_to_the_command(
    rest: Rest, windlass: CommandLine
) -> None:
    await _seed(rest)
    code, out, err = await windlass("runs", "list", "--limit", "0", "-o", "json")
    everything = json.loads(out)
    assert (code, err, len({run["id"] for run in everything})) == (0, "", FINISHED + RUNNING + 1)
    for filters, expected in (
        (["--state", "Failed"], 100),
        (["--state", "Failed", "--state", "Running", "--task", "task-0"], 100 + RUNNING // 10),
        (["--since", "10m"], 600),
        (["--before", "10m", "--finished-since", "1h", "--sort", "finished"], 601),
        (["--finished-before", "1h"], 0),
        (["--tag", "eu"], 0),
        (["--error", "nothing of the kind", "--since", "1d"], 0),
    ):
        code, out, err = await windlass("runs", "list", "--limit", "0", "-o", "name", *filters)
        assert (code, err) == (0, "")
        assert abs(len(out.split()) - expected) <= 30, f"{filters}: the clock runs meanwhile"


async def test_exit_code_3_carries_the_apis_own_words(rest: Rest, windlass: CommandLine) -> None:
    assert rest.url
    code, _, err = await windlass("run", "missing")
    assert (code, err.split(":")[0]) == (3, "TaskNotFound")
    code, _, err = await windlass("run", "order", token=VIEWER)
    assert (code, err.split(":")[0], "hint:" in err) == (3, "Forbidden", True)
    code, _, err = await windlass("runs", "get", "nothing", token="no-token")
    assert (code, err.split(":")[0]) == (3, "Unauthorized")
