"""``windlass manifests``: what it writes says exactly what the decorator said."""

from pathlib import Path

import yaml

from windlass.cli.manifests import manifests_of

_MODULE = """
from datetime import timedelta
from windlass import Retry, task

@task(timeout=timedelta(days=1, hours=2, minutes=3), retry=Retry(min_delay=timedelta(milliseconds=1500)))
def slow(): ...
"""


def test_a_duration_is_written_exactly(tmp_path: Path) -> None:
    path = tmp_path / "slow_tasks.py"
    path.write_text(_MODULE)
    (manifest,) = yaml.safe_load_all(manifests_of(str(path), image=None, inline=False, namespace=None))
    assert manifest["spec"]["timeout"] == "1d2h3m"
    assert manifest["spec"]["retry"]["minDelay"] == "1s500ms"
