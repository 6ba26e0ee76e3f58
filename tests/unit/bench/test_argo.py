"""Argo Workflows beside bare pods: the same pod for everybody, its own manifests, and what the rows say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cluster_objects import NOW, job, pod
from bench.peers.argo import TUNED, overlay, workflow
from bench.peers.go_programs import ARGO
from bench.peers.pods import figures


def test_everybodys_container_is_the_same() -> None:
    [bare] = pod("a", NOW)["spec"]["containers"]
    [argos] = workflow("a", NOW)["spec"]["templates"]
    assert {**argos["container"], "name": "main"} == bare
    assert job("a", NOW)["spec"]["template"]["spec"]["containers"] == [bare]


def test_the_controller_is_installed_from_its_own_manifests_with_our_image_and_the_wanted_arguments() -> None:
    made = overlay(["../manifests/a"], TUNED)
    assert made["resources"] == ["../manifests/a"]
    changes = {one["path"].rpartition("/")[2]: one["value"] for one in json.loads(made["patches"][0]["patch"])}
    assert changes["args"][-2:] == ["--qps=50", "--burst=75"]
    assert changes["args"][:2] == ["--executor-image", "docker.io/windlass/bench-argoexec:dev"]


def test_ours_stands_beside_each_with_the_goals(capsys: pytest.CaptureFixture[str]) -> None:
    alone = {"ours": [0.4, 0.4], "bare pods": [0.2, 0.25], "Argo Workflows": [2.0, 2.0]}
    crowds = {"ours": [10.0], "bare pods": [9.0], "Argo Workflows": [40.0], "Argo Workflows as it comes": [50.0]}
    made = {(one.name.split()[0], (one.peer or {})["name"]): (one.ratio, one.goal) for one in figures(alone, crowds)}
    assert made["created", "bare pods"] == (1.8, "ratio<=2")
    assert made["60", "bare pods"] == (1.111, "ratio<=1.25")
    assert made["60", "Argo Workflows 3.7.0"] == (0.25, "ratio<=0.333")
    assert made["60", "Argo Workflows as it comes 3.7.0"] == (0.2, "")
    assert "goal ratio<=0.333: met" in capsys.readouterr().out


def test_files_that_are_links_in_its_repository_belong_to_what_is_built(tmp_path: Path) -> None:
    assert ARGO.folder(tmp_path) != replace(ARGO, links=()).folder(tmp_path)
