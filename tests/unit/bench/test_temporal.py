"""Temporal's server: its configuration, and that only the pinned module is built."""

import json
from pathlib import Path

import pytest

from bench.peers.go_programs import TEMPORAL, GoModule
from bench.peers.processes import free_ports
from bench.peers.temporal_settings import SERVICES, configuration, sql_tool, tuned
from e2e.cluster.errors import ClusterError

STORES = {
    "default": "postgresql://windlass@127.0.0.1:5499/test_a",
    "visibility": "postgresql://windlass@127.0.0.1:5499/test_b",
}
PORTS = list(range(9001, 9009))


def test_each_store_is_a_database_of_the_shared_server() -> None:
    stores = json.loads(configuration(STORES, PORTS))["persistence"]["datastores"]
    assert {(one["sql"]["connectAddr"], one["sql"]["user"]) for one in stores.values()} == {
        ("127.0.0.1:5499", "windlass")
    }
    assert [stores[name]["sql"]["databaseName"] for name in STORES] == ["test_a", "test_b"]


def test_no_two_services_share_a_port() -> None:
    services = json.loads(configuration(STORES, PORTS))["services"]
    ports = [service["rpc"][kind] for service in services.values() for kind in ("grpcPort", "membershipPort")]
    assert tuple(services) == SERVICES
    assert ports == PORTS


def test_as_it_comes_there_are_no_dynamic_settings() -> None:
    assert "dynamicConfigClient" not in json.loads(configuration(STORES, PORTS))
    assert json.loads(configuration(STORES, PORTS, dynamic="/a"))["dynamicConfigClient"]["filepath"] == "/a"


def test_every_dynamic_setting_is_a_list_of_values_as_the_server_reads_them() -> None:
    assert all([*one] == [{"value": one[0]["value"]}] for one in tuned().values())
    assert tuned()["system.enableEagerWorkflowStart"][0]["value"] is True


def test_the_sql_tool_is_told_where_the_database_is() -> None:
    told = sql_tool(STORES["default"])
    options = dict(zip(told[::2], told[1::2], strict=True))
    assert (options["--endpoint"], options["--port"], options["--database"]) == ("127.0.0.1", "5499", "test_a")


def test_another_version_or_another_package_is_another_build(tmp_path: Path) -> None:
    other = GoModule(
        TEMPORAL.name, TEMPORAL.path, "v1.0.0", TEMPORAL.sum, programs=TEMPORAL.programs, folders=TEMPORAL.folders
    )
    assert TEMPORAL.folder(tmp_path) == TEMPORAL.folder(tmp_path)
    assert TEMPORAL.folder(tmp_path) != other.folder(tmp_path)


def test_a_module_that_is_not_the_pinned_one_is_not_built() -> None:
    TEMPORAL.check(TEMPORAL.sum)
    with pytest.raises(ClusterError, match="pinned is h1:"):
        TEMPORAL.check("h1:another")


def test_free_ports_are_different_ones() -> None:
    assert len(set(free_ports(20))) == 20
    assert all(20_000 <= port < 20_100 for port in free_ports(5, among=range(20_000, 20_100)))
