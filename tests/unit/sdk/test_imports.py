"""What importing the SDK brings along: every start of a pod and every command waits for it."""

import subprocess
import sys

import pytest

HEAVY = {
    "asyncio", "click", "email", "http", "httpx", "kubernetes", "opentelemetry", "pydantic", "pydantic_core", "rich",
    "ssl", "typer", "yaml",
}  # fmt: skip

_ATTEMPT = """
import msgspec
from windlass import current_run, execution, logger, protocol, sleep_sync, step, task

class Nowhere:
    def save_steps(self, steps): pass

@step
def add(a: int, b: int) -> dict:
    return {"sum": [a + b, current_run().attempt]}

@task
def main(payload: dict) -> dict:
    logger.info("adding")
    sleep_sync("1ms")
    return add(payload["a"], b=2)

attempt = protocol.ClaimedAttempt(
    attempt_id="a", token="t", run_id="r", number=1, max_attempts=1, task="t", namespace="n", entrypoint="m:f",
    lease_ms=1, heartbeat_ms=1, payload=msgspec.Raw(b'{"a":1}'),
)
assert bytes(execution.execute(main, attempt, Nowhere()).complete.result) == b'{"sum":[3,1]}'
"""


def brought_along(code: str) -> set[str]:
    """Return the packages that a fresh interpreter loads for ``code``."""
    script = (
        "import sys\nbefore = set(sys.modules)\n"
        f"exec({code!r}, {{'__name__': '__main__'}})\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_itself_brings_nothing() -> None:
    assert brought_along("import windlass") == {"windlass"}


@pytest.mark.parametrize(
    ("code", "welcome"),
    [
        ("from windlass import task, step, current_run, to_thread, Retry, RetryAt, PermanentError, logger", set()),
        ("import windlass.execution, windlass.transport, windlass.connection, windlass.protocol", set()),
        (_ATTEMPT, set()),
        ("from windlass import Client, RunHandle", set()),
        ("from windlass import gather", {"asyncio", "ssl"}),
    ],
    ids=["decorators", "an attempt's modules", "a whole synchronous attempt", "the client", "gather"],
)
def test_what_is_heavy_is_loaded_by_those_who_use_it(code: str, welcome: set[str]) -> None:
    assert brought_along(code) & HEAVY <= welcome


def test_every_public_name_is_there_and_listed_once() -> None:
    import windlass

    assert sorted(windlass.__all__) == windlass.__all__
    assert set(windlass._HOMES) == set(windlass.__all__)
    assert set(windlass.__all__) <= set(dir(windlass))
    for name in windlass.__all__:
        assert getattr(windlass, name) is not None
    with pytest.raises(AttributeError, match="module 'windlass' has no attribute 'stepp'"):
        windlass.stepp  # noqa: B018 - the point
