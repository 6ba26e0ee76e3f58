"""What users' code prints, however it does."""

import asyncio
import os

import pytest

from tests.support.faulty_link import linked
from tests.support.runner import beat_often, code, ended, logs_of, run_once, runner
from tests.support.world import World
from windlass import protocol
from windlass_runner import exit_codes


async def test_a_line_of_50_mb_is_cut_and_the_run_succeeds(world: World, url: str) -> None:
    body = (
        "import os\n@task\ndef main():\n    print('before')\n"
        "    for _ in range(50): print('x' * 1_000_000, end='')\n    print()\n    print('after')\n"
    )
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    lines = await logs_of(world, run_id)
    assert (lines[0], lines[1][:9]) == ("before", "xxxxxxxxx")
    assert lines[1].endswith(f"line cut at {protocol.MAX_LOG_LINE} bytes")
    assert lines[2:] == ["after"]


async def test_a_flood_of_logs_is_capped_while_heartbeats_go_on(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch, 100)
    body = """
import os
block = (b"y" * 99 + b"\\n") * 2000
@task
def main():
    for _ in range(500):
        os.write(1, block)
"""
    run_id = await world.submit(code(body))
    async with linked(url) as proxy, runner(world, proxy.url) as process:
        exit_code, output = await ended(process, seconds=60)
    assert exit_code == exit_codes.DONE, "100 MB are written, although the API takes a fraction of them"
    assert (await world.get(run_id))["state"] == "Succeeded"
    assert len(output) < 40_000_000
    assert "bytes dropped: an attempt may log 8 MiB at once and 1 MiB/s after that" in output
    # There it is "bytes" for what was over the allowance, or "lines" for what a busy API did not take in time.
    rows = await world.database.fetch("SELECT DISTINCT text FROM log WHERE text ~ '(bytes|lines) dropped:'")
    assert rows, "the run's own log says so too"
    (attempt,) = await world.database.fetch("SELECT extract(epoch FROM closed_at - started_at) AS seconds FROM attempt")
    assert proxy.calls["heartbeat"] > attempt["seconds"], "ten a second are due"


async def test_a_last_line_without_an_end_and_bytes_that_are_no_text_arrive(world: World, url: str) -> None:
    body = """
import os, sys
@task
def main():
    os.write(1, b"\\xff\\xfe caf\\xc3\\xa9\\n")
    os.write(2, "é".encode()[:1])
    os.write(2, "é".encode()[1:])
    sys.stdout.write("lone \\udcff and nul \\x00 and the end")
"""
    run_id = await world.submit(code(body))
    exit_code, output = await run_once(world, url)
    assert exit_code == exit_codes.DONE
    assert sorted(await logs_of(world, run_id)) == [
        "lone \\udcff and nul \\u0000 and the end",
        "é",
        "\ufffd\ufffd café",
    ]
    assert "café" in output


async def test_lines_are_shown_as_they_come_not_when_the_run_ends(world: World, url: str) -> None:
    await world.submit(code("import time\n@task\ndef main():\n    print('now')\n    time.sleep(30)\n"))
    async with runner(world, url) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"now\n"


async def test_a_runner_whose_own_output_is_closed_finishes_its_run(world: World, url: str) -> None:
    body = "@task\ndef main():\n    for n in range(200): print('x' * 1000)\n    return 'fine'\n"
    run_id = await world.submit(code(body))
    read, write = os.pipe()
    os.close(read)
    async with runner(world, url, write) as process:
        os.close(write)
        assert await asyncio.wait_for(process.wait(), 30) == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"
