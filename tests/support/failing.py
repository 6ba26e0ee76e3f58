"""A call whose reply is lost, inside a test's own process; see :mod:`windlass.failpoints`."""

from pathlib import Path

import aiohttp
import pytest
from botocore.client import BaseClient
from psycopg import AsyncConnection

from windlass.failpoints import VARIABLE
from windlass_operator.failpoints import install


def lose_reply(monkeypatch: pytest.MonkeyPatch, folder: Path, call: str) -> Path:
    """Let the reply of one call of the operator be lost, and return a file that is there when it was.

    Args:
        monkeypatch: Takes the failpoints away after the test.
        folder: An empty one.
        call: Such as ``ledger commit of plan_pod|1``.
    """
    for owner, name in (
        (AsyncConnection, "execute"),
        (AsyncConnection, "transaction"),
        (BaseClient, "_make_api_call"),
        (aiohttp.ClientSession, "_request"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    (folder / "plan").write_text(f"operator|{call}|lost")
    monkeypatch.setenv(VARIABLE, str(folder))
    install("operator")
    return folder / "struck"
