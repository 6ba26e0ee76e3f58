"""``windlass-operator doctor`` before a real PostgreSQL, a real object store's contract, and a scripted API server."""

import os
import subprocess
import sys

import psycopg
import pytest

from tests.support.kube_server import Scripted, kube_server
from tests.support.postgres import PostgresServer
from windlass.findings import Finding
from windlass_operator import doctor
from windlass_operator.blobs.memory import MemoryBlobStore
from windlass_operator.blobs.store import BlobKey
from windlass_operator.kube.permissions import Permission
from windlass_operator.ledger.migrate import migrate


def _states(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in findings]


def test_a_migrated_ledger_is_ok(ledger_uri: str) -> None:
    assert _states(list(doctor.ledger(ledger_uri))) == [("ledger", "ok"), ("schema", "ok")]


def test_a_fresh_database_lacks_its_migrations_and_looking_changes_nothing(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    found = list(doctor.ledger(uri))
    assert _states(found) == [("ledger", "ok"), ("schema", "fail")]
    assert "0001.schema" in found[1].message
    assert "windlass-operator migrate" in found[1].mend
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'windlass'").fetchone() == (0,)


def test_a_ledger_of_a_newer_release_is_named(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    migrate(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "UPDATE windlass._yoyo_migration SET migration_hash = 'x' WHERE migration_id = '0001.schema'"
        )
    found = list(doctor.ledger(uri))[1]
    assert (found.state, found.message[:12]) == ("fail", "1 migrations")


def test_a_database_that_does_not_answer_is_a_line_and_an_exit_code() -> None:
    env = {
        **os.environ,
        "WINDLASS_POSTGRES_URI": "postgresql://127.0.0.1:1/x",
        "WINDLASS_API_URL": "http://127.0.0.1:1",
    }
    env["KUBECONFIG"] = "/nowhere"
    command = [sys.executable, "-m", "windlass_operator.cli", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [line.split()[:2] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert lines == [
        ["ok", "configuration"],
        ["fail", "ledger"],
        ["ok", "object"],
        ["fail", "kubernetes"],
        ["fail", "api"],
    ]
    assert "Secret windlass-postgres" in done.stdout
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


async def test_a_missing_variable_is_the_only_line() -> None:
    found = [finding async for finding in doctor.examine("operator", {})]
    assert _states(found) == [("configuration", "fail")]
    assert "WINDLASS_POSTGRES_URI is not set" in found[0].message


async def test_a_store_is_used_as_the_api_uses_it_and_left_as_it_was() -> None:
    store = MemoryBlobStore(limit=1024)
    assert (await doctor.write_read_delete(store, "memory")).state == "ok"
    assert [run async for run in store.runs()] == []


async def test_a_store_that_forgets_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryBlobStore(limit=1024)

    async def forget(_: BlobKey, __: bytes) -> None:
        return None

    monkeypatch.setattr(store, "put", forget)
    assert (await doctor.write_read_delete(store, "memory")).state == "fail"


async def test_a_permission_that_is_missing_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with kube_server() as kube:

        async def may(permission: Permission) -> bool:
            return (permission.verb, permission.resource) != ("list", "tasks")

        monkeypatch.setattr(kube.client, "may", may)
        found = await doctor.granted(kube.client, "operator", ("shop",), "windlass-system")
        assert (found.state, found.message) == ("fail", "Not granted: list tasks.windlass.dev in shop.")
        assert "--process" not in found.mend


async def test_without_any_permission_it_may_be_the_wrong_pod() -> None:
    async with kube_server() as kube:
        kube.will(Scripted(201, {"status": {}}))
        found = await doctor.granted(kube.client, "api", (), "windlass-system")
        assert (found.state, "--process" in found.mend) == ("fail", True)
        assert {request.body["kind"] for request in kube.seen} == {"SelfSubjectAccessReview"}
        asked = next(r.body["spec"]["resourceAttributes"] for r in kube.seen if "tokenreviews" in str(r.body))
        assert asked == {"verb": "create", "group": "authentication.k8s.io", "resource": "tokenreviews"}
