"""The real runner as a standby pod, against the real API: it waits, takes one run, and ends."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.api_server import serving
from tests.support.eventually import eventually
from tests.support.faulty_link import linked
from tests.support.runner import ONCE, code, ended, runner
from tests.support.world import SHOP, World, a_task
from windlass_operator.domain.errors import UnauthorizedError
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.services.submitted import Submission
from windlass_runner import exit_codes

QUICK = (
    "import time\n@task\ndef main():\n    print(f'{time.time():.4f}', flush=True)\n    return current_run().attempt\n"
)


@asynccontextmanager
async def standing_by(world: World, url: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with runner(world, url, WINDLASS_STANDBY="1", **env) as process:

        async def waiting() -> int:
            (row,) = await world.database.fetch("SELECT count(*) AS n FROM pod WHERE ahead AND claim_id IS NOT NULL")
            return int(row["n"])

        await eventually(waiting)
        yield process


async def trigger(world: World) -> UUID:
    return (await world.submissions.trigger(SHOP, Submission(task="order", payload=None))).run_id


async def test_a_standby_runner_waits_beyond_its_first_claim_and_takes_one_run(world: World, url: str) -> None:
    await world.apply_task(code(QUICK, standby=1))
    async with linked(url) as proxy, standing_by(world, proxy.url) as process:
        await eventually(lambda: _calls(proxy.calls["claim"]), lambda n: n >= 3)
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["attempts"], row["result"]) == ("Succeeded", 1, "1")


async def _calls(number: int) -> int:
    return number


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_the_child_of_a_run_comes_from_a_process_that_was_there_before_the_run(world: World, url: str) -> None:
    """What makes it fast. How fast it is says the bench: nobody knows how busy the machine of a test is."""
    await world.apply_task(code("import os\n@task\ndef main():\n    return os.getppid()\n", standby=1))
    async with standing_by(world, url) as process:
        before = children_of(process.pid)
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.DONE
    assert [(await world.get(run_id))["result"]] == before


async def test_the_module_is_imported_before_any_run_comes(world: World, url: str, tmp_path: Path) -> None:
    mark = f"open({str(tmp_path / 'imported')!r}, 'w').close()"
    (tmp_path / "shop_module.py").write_text(f"from windlass import task\n{mark}\n@task\ndef main():\n    return 7\n")
    parts = PodParts(image="runner:test", preload="shop_module", source_hash=None)
    await world.apply_task(a_task(entrypoint="shop_module:main", source=None, pod=parts, retry=ONCE, standby=1))
    env = {"WINDLASS_PRELOAD": "shop_module", "PYTHONPATH": str(tmp_path)}
    async with standing_by(world, url, **env) as process:

        async def imported() -> bool:
            return (tmp_path / "imported").exists()

        await eventually(imported)
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.DONE
    assert (await world.get(run_id))["result"] == "7"


@pytest.mark.parametrize("body", ["raise ValueError('no')", "import os; os._exit(3)"])
async def test_a_module_that_cannot_be_imported_fails_the_first_run_and_no_pod(
    world: World, url: str, tmp_path: Path, body: str
) -> None:
    (tmp_path / "broken_module.py").write_text(body + "\n")
    parts = PodParts(image="runner:test", preload="broken_module", source_hash=None)
    await world.apply_task(a_task(entrypoint="broken_module:main", source=None, pod=parts, retry=ONCE, standby=1))
    env = {"WINDLASS_PRELOAD": "broken_module", "PYTHONPATH": str(tmp_path)}
    async with linked(url) as proxy, standing_by(world, proxy.url, **env) as process:
        await eventually(lambda: _calls(proxy.calls["claim"]), lambda n: n >= 3)
        assert process.returncode is None, "it waits, although its code cannot run"
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.USER_FAILURE
    assert (await world.get(run_id))["state"] == "Failed"


async def test_a_standby_runner_outlives_an_api_that_is_away(world: World, url: str) -> None:
    await world.apply_task(code(QUICK, standby=1))
    async with linked(url) as proxy, standing_by(world, proxy.url, WINDLASS_CLAIM_PATIENCE="0.2") as process:
        await eventually(lambda: _calls(proxy.calls["claim"]), lambda n: n >= 2)  # it was told to ask again
        proxy.go_away()
        before = proxy.connections
        await eventually(lambda: _calls(proxy.connections), lambda n: n >= before + 4)
        proxy.away = False
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_standby_runner_that_is_sent_away_ends_well(world: World, url: str) -> None:
    await world.apply_task(code(QUICK, standby=1))
    async with standing_by(world, url, WINDLASS_CLAIM_WAIT_MS="25000") as process:
        await world.apply_task(code(QUICK))

        async def drained() -> bool:  # one that is being asked for right now is left to the next look
            await world.pods.start_due()
            return not world.cluster.pods

        await eventually(drained)
        assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    assert await world.database.fetch("SELECT 1 FROM attempt") == []


async def test_sigterm_ends_a_standby_runner_at_once(world: World, url: str) -> None:
    await world.apply_task(code(QUICK, standby=1))
    async with standing_by(world, url, WINDLASS_CLAIM_WAIT_MS="25000") as process:
        process.send_signal(signal.SIGTERM)
        assert (await ended(process, seconds=5))[0] == exit_codes.DONE
    (row,) = await world.database.fetch("SELECT state FROM pod")
    assert row["state"] == "Ended", "no claim of it that is still on its way takes anything"


class Vouching:
    """Vouches for the tokens of one pod."""

    def __init__(self) -> None:
        self.tokens = {"the first"}
        self.pod = ("", "")

    async def pod_of(self, token: str) -> tuple[str, str]:
        if token not in self.tokens:
            raise UnauthorizedError("no such token")
        return self.pod


async def test_the_token_is_read_anew_for_each_question(world: World, tmp_path: Path) -> None:
    vouch, file = Vouching(), tmp_path / "token"
    file.write_text("the first")
    await world.apply_task(code(QUICK, standby=1))
    await world.pods.start_due()
    (seen,) = world.cluster.pods.values()
    vouch.pod = (seen.name, seen.uid)
    env = {"WINDLASS_CREDENTIAL": "", "WINDLASS_CREDENTIAL_FILE": str(file)}
    async with (
        serving(world, vouch=vouch) as url,
        linked(url) as proxy,
        standing_by(world, proxy.url, **env) as process,
    ):
        await eventually(lambda: _calls(proxy.calls["claim"]), lambda n: n >= 2)
        vouch.tokens.add("the second")
        file.write_text("the second")  # the kubelet writes the next one long before the last is void
        calls = proxy.calls["claim"]
        await eventually(lambda: _calls(proxy.calls["claim"]), lambda n: n >= calls + 2)
        vouch.tokens.remove("the first")
        run_id = await trigger(world)
        assert (await ended(process))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"
