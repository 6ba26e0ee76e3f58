"""Lines of output: split, cut, capped, redacted."""

import pytest

from windlass import protocol
from windlass_runner.logs import BURST_BYTES, BYTES_PER_SECOND, Allowance, Lines, Redactor

CUT = f" … line cut at {protocol.MAX_LOG_LINE} bytes"
LONGEST = "x" * protocol.MAX_LOG_LINE


def lines_of(*chunks: bytes) -> list[str]:
    lines = Lines()
    return [line for chunk in chunks for line in lines.feed(chunk)] + lines.end()


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"a\r\n"], ["a"]),
        ([b"\n\n"], ["", ""]),
        ([b""], []),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        (["€".encode()[:1], "€\n".encode()[1:]], ["€"]),
        ([b"nul \x00\n"], ["nul \x00"]),
        ([LONGEST.encode() + b"\n"], [LONGEST]),
        ([b"y" * 50_000 + b"\nnext\n"], ["y" * protocol.MAX_LOG_LINE + CUT, "next"]),
        ([b"y" * 9_000, b"y" * 9_000, b"y" * 9_000, b"y\nnext"], ["y" * protocol.MAX_LOG_LINE + CUT, "next"]),
        ([b"y" * 50_000], ["y" * protocol.MAX_LOG_LINE + CUT]),
    ],
)
def test_output_becomes_lines(chunks: list[bytes], expected: list[str]) -> None:
    assert lines_of(*chunks) == expected


def test_a_line_of_50_mb_is_one_line_and_what_follows_is_whole() -> None:
    lines = Lines()
    chunk = b"z" * 65_536
    out = [line for _ in range(800) for line in lines.feed(chunk)]
    assert out == ["z" * protocol.MAX_LOG_LINE + CUT]
    assert lines.feed(b"end\nnext\n") == ["next"]


def test_what_is_over_the_allowance_is_dropped_to_the_next_line_and_counted() -> None:
    time = [0.0]
    lines = Lines(Allowance(burst=10, rate=2, now=lambda: time[0]))
    assert lines.feed(b"12345678\n") == ["12345678"]
    assert lines.feed(b"lost\nlost too, and ha") == []
    time[0] = 4
    (marker, whole) = lines.feed(b"lf\nab\n")
    assert marker.startswith("… 21 bytes dropped: ")
    assert whole == "ab"


def test_the_marker_comes_at_the_end_if_nothing_else_follows() -> None:
    lines = Lines(Allowance(burst=4, rate=0))
    assert lines.feed(b"too much\n") == []
    (marker,) = lines.end()
    assert marker == (
        f"… 9 bytes dropped: an attempt may log {BURST_BYTES >> 20} MiB at once and {BYTES_PER_SECOND >> 20} MiB/s "
        "after that"
    )


def test_an_allowance_never_saves_up_more_than_its_burst() -> None:
    time = [0.0]
    allowance = Allowance(burst=10, rate=1, now=lambda: time[0])
    time[0] = 1000.0
    assert allowance.take(10)
    assert not allowance.take(1)


def test_after_a_drop_a_second_is_waited_for_so_that_markers_stay_rare() -> None:
    time = [0.0]
    allowance = Allowance(burst=100, rate=10, now=lambda: time[0])
    assert allowance.take(100)
    assert not allowance.take(1)
    time[0] = 0.9
    assert not allowance.take(1)
    time[0] = 1.1
    assert allowance.take(1)


def test_secrets_are_taken_out_longest_first_and_line_by_line() -> None:
    redact = Redactor(["secret-1", "secret-1-and-more", "first line\nsecond line", "short"])
    assert redact("secret-1-and-more secret-1") == "[redacted] [redacted]"
    assert redact("the second line of a key") == "the [redacted] of a key"
    assert redact("short values are words, not secrets") == "short values are words, not secrets"
