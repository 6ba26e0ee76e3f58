"""Argo Workflows: what is built of it, and how it is installed from its own manifests."""

import json
from dataclasses import replace
from pathlib import Path

from bench.peers.argo import TUNED, overlay
from bench.peers.go_programs import ARGO


def test_the_controller_is_installed_from_its_own_manifests_with_our_image_and_the_wanted_arguments() -> None:
    made = overlay(["../manifests/a"], TUNED)
    assert made["resources"] == ["../manifests/a"]
    changes = {one["path"].rpartition("/")[2]: one["value"] for one in json.loads(made["patches"][0]["patch"])}
    assert changes["args"][-2:] == ["--qps=50", "--burst=75"]
    assert changes["args"][:2] == ["--executor-image", "docker.io/windlass/bench-argoexec:dev"]


def test_the_containers_that_it_adds_are_as_restricted_as_the_others() -> None:
    [data] = [json.loads(one["patch"]) for one in overlay([])["patches"] if one["target"]["kind"] == "ConfigMap"]
    assert json.loads(data[0]["value"]["executor"])["securityContext"]["allowPrivilegeEscalation"] is False


def test_files_that_are_links_in_its_repository_belong_to_what_is_built(tmp_path: Path) -> None:
    assert ARGO.folder(tmp_path) != replace(ARGO, links=()).folder(tmp_path)
