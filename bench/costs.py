"""What a run and a step cost in CPU and log: by process, and beside one saved row without Windlass."""

import asyncio

from bench.probe import STEPS, Round, probing
from bench.report import Figure, figure

_ROUNDS = 5


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    async with probing() as probe:
        await probe.round()  # caches, and pages that are logged as a whole when they change for the first time
        return figures([await probe.round() for _ in range(_ROUNDS)])


def figures(rounds: list[Round]) -> list[Figure]:
    """Return what the rounds say. Pure, but for printing."""
    bare, bare_pg = [one.bare_api for one in rounds], [one.bare_database for one in rounds]
    run, step = "a run without steps, in a runner process of its own", f"a step, of {STEPS} one after the other"
    return [
        figure(f"{run}: CPU of the runner's processes", [one.empty.runner * 1000 for one in rounds], "ms"),
        figure(f"{run}: CPU of the API", [one.empty.api * 1000 for one in rounds], "ms"),
        figure(f"{run}: CPU of PostgreSQL", [one.empty.database * 1000 for one in rounds], "ms"),
        figure(f"{run}: log of PostgreSQL", [one.empty.log for one in rounds], "B"),
        figure(f"{step}: CPU of the child", [one.child for one in rounds], "ms"),
        figure(
            f"{step}: CPU of the API", [one.each_step.api * 1000 for one in rounds], "ms", peer=("a saved row", bare)
        ),
        figure(
            f"{step}: CPU of PostgreSQL",
            [one.each_step.database * 1000 for one in rounds],
            "ms",
            peer=("a saved row", bare_pg),
        ),
        figure(
            f"{step}: log of PostgreSQL",
            [one.each_step.log for one in rounds],
            "B",
            peer=("a saved row", [one.bare_log for one in rounds]),
        ),
        figure(
            "a trigger through REST: CPU of the API", [one.trigger for one in rounds], "ms", peer=("a saved row", bare)
        ),
    ]


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
