"""Who answers for a container that was ended for want of memory, and what quantities mean."""

from typing import Any

import pytest

from windlass_operator.domain import memory
from windlass_operator.kube.pod_status import in_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("used", "limit", "answers"),
    [
        (250 * MIB, 256 * MIB, "user"),
        (128 * MIB, 256 * MIB, "user"),
        (100 * MIB, 256 * MIB, "infra"),
        (None, 256 * MIB, "user"),
        (900 * MIB, None, "infra"),
    ],
)
def test_the_last_heartbeat_tells_a_limit_that_was_reached_from_a_node_that_was_full(
    used: int | None, limit: int | None, answers: str
) -> None:
    assert memory.who_answers(used, limit) == answers


def test_the_message_has_both_figures() -> None:
    assert memory.describe(250 * MIB, 256 * MIB) == "The limit is 256 MiB, the last heartbeat told of 250 MiB."
    assert memory.describe(None, 256 * MIB) == "The limit is 256 MiB."
    assert memory.describe(None, None) == ""


@pytest.mark.parametrize(
    ("quantity", "size"),
    [
        ("256Mi", 256 * MIB),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("500M", 500_000_000),
        ("1k", 1000),
        ("7", 7),
        (7, 7),
        ("1e9", None),
        (True, None),
        ("", None),
        ("Mi", None),
        (None, None),
        ({}, None),
        ("9" * 30, None),
    ],
)
def test_a_quantity_is_read_and_junk_is_none(quantity: Any, size: int | None) -> None:
    assert in_bytes(quantity) == size
