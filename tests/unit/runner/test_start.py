"""What process 1 loads before it claims, and what its environment tells it."""

import subprocess
import sys

import pytest

from windlass_runner.api import address_of
from windlass_runner.config import Config, user_environment

POD = {"WINDLASS_URL": "http://windlass-api:8080", "POD_NAME": "order-1", "POD_UID": "uid"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://windlass-api.windlass-system:8080", ("windlass-api.windlass-system", 8080)),
        ("http://10.0.0.1:8080/", ("10.0.0.1", 8080)),
        ("http://[fd00::1]:8080", ("fd00::1", 8080)),
        ("http://[fd00::1]", ("fd00::1", 80)),
        ("http://localhost", ("localhost", 80)),
    ],
)
def test_the_address_of_the_api(url: str, address: tuple[str, int]) -> None:
    assert address_of(url) == address


def test_process_1_loads_nothing_that_it_does_not_need_before_the_claim() -> None:
    """Each of these was once loaded by accident, and costs every pod milliseconds."""
    heavy = ("typing_extensions", "inspect", "dataclasses", "urllib", "http", "email", "asyncio", "pydantic", "pathlib")
    program = (
        "import sys\nfrom windlass_runner import zygote_process\nassert 'msgspec' not in sys.modules\n"
        "from windlass_runner import light\nlight.import_msgspec()\nimport windlass_runner.main\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "import typing_extensions, inspect\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_user_code_gets_the_environment_without_the_credential() -> None:
    assert user_environment({"A": "1", "WINDLASS_CREDENTIAL": "x", "WINDLASS_CREDENTIAL_FILE": "y"}) == {"A": "1"}


def test_a_runner_that_was_started_by_hand_says_what_it_misses() -> None:
    with pytest.raises(SystemExit, match="POD_NAME, POD_UID not set"):
        Config({"WINDLASS_URL": "http://x"})
    with pytest.raises(SystemExit, match="neither WINDLASS_CREDENTIAL nor WINDLASS_CREDENTIAL_FILE"):
        Config(POD).credential()


def test_secrets_are_the_values_of_the_variables_that_are_named() -> None:
    config = Config({**POD, "WINDLASS_SECRET_ENV": "KEY,,GONE", "KEY": "value"})
    assert config.secrets == ["value"]
