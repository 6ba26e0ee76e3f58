"""``windlass manifests``: what it writes says exactly what the decorator said."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from windlass import task
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


def test_pods_to_keep_ready_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "warm_tasks.py"
    path.write_text("from windlass import task\n@task(standby=2)\ndef warm(): ...\n@task\ndef cold(): ...\n")
    warm, cold = yaml.safe_load_all(manifests_of(str(path), image=None, inline=False, namespace=None))
    assert warm["spec"]["standby"] == 2
    assert "standby" not in cold["spec"]


@pytest.mark.parametrize("wrong", [-1, 101, "2", 1.5, True])
def test_a_number_of_pods_that_no_task_can_keep_ready_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="how many pods to keep ready"):
        task(standby=wrong)


def test_a_task_of_a_pool_names_it(tmp_path: Path) -> None:
    path = tmp_path / "pooled_tasks.py"
    path.write_text('from windlass import task\n@task(pool="fast")\ndef quick(): ...\n')
    (quick,) = yaml.safe_load_all(manifests_of(str(path), image=None, inline=False, namespace=None))
    assert (quick["spec"]["isolation"], quick["spec"]["pool"]) == ("Pool", "fast")


@pytest.mark.parametrize("wrong", [{"pool": "Fast"}, {"pool": 7}, {"pool": "fast", "standby": 1}])
def test_a_pool_that_no_task_can_name_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="WorkerPool"):
        task(**wrong)
