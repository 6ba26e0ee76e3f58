"""Log lines arrive as they were printed, once each."""

import pytest

from tests.support.world import World
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.ledger import logs
from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import InvariantService

ODD = [
    "plain",
    "",
    'quotes " and \\ and \\u0000 spelled out',
    "tab\tand\x1b[31mcolour",
    "snowman ☃ 🎉",
    '{"a": [1, null]}',
]


async def test_lines_are_kept_as_they_are_and_a_repeat_adds_none(database: Database) -> None:
    world = await World(database).start()
    run_id = await world.submit()
    (attempt,) = await world.claim()
    lines = [protocol.LogLine(seq=n, stream="stdout", text=text) for n, text in enumerate(ODD, start=1)]
    lines.append(protocol.LogLine(seq=len(ODD) + 1, stream="stderr", text="late", age_ms=1500.0, step="charge"))
    for _ in range(2):
        await world.steps.log(attempt.token, protocol.LogsRequest(lines=lines))
    kept = await logs.list_of_run(database, run_id, after=(0, 0), limit=100)
    assert [row["text"] for row in kept] == [*ODD, "late"]
    assert [(row["stream"], row["step"]) for row in kept[-2:]] == [("stdout", None), ("stderr", "charge")]
    assert (kept[0]["at"] - kept[-1]["at"]).total_seconds() == 1.5


async def test_lines_of_a_stranger_are_refused(database: Database) -> None:
    world = await World(database).start()
    await world.submit()
    (attempt,) = await world.claim()
    line = protocol.LogLine(seq=1, stream="stdout", text="x")
    stranger = attempt.token.partition(".")[0] + ".somebody-else"
    with pytest.raises(AttemptClosedError):
        await world.steps.log(stranger, protocol.LogsRequest(lines=[line]))


async def test_lines_that_were_lost_on_their_way_leave_a_line_that_says_so(database: Database) -> None:
    world = await World(database).start()
    run_id = await world.submit()
    (attempt,) = await world.claim()
    for numbers in ((1, 2), (6, 7), (8,), (6, 7)):
        lines = [protocol.LogLine(seq=n, stream="stdout", text=str(n)) for n in numbers]
        await world.steps.log(attempt.token, protocol.LogsRequest(lines=lines))
    kept = await logs.list_of_run(database, run_id, after=(0, 0), limit=100)
    assert [(row["seq"], row["text"]) for row in kept] == [
        *((1, "1"), (2, "2")),
        (5, "… 3 lines lost on their way to the ledger"),
        *((6, "6"), (7, "7"), (8, "8")),
    ]
    assert await InvariantService(database, again=0).check() == []
