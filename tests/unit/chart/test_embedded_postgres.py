"""The embedded database: its password is made once, in the cluster, and its data stays."""

from tests.unit.chart.rendering import NAMESPACE, Object, containers, env, one, render


def _postgres(values: Object | None = None) -> Object:
    embedded = {"enabled": True, **(values or {})}
    return one(render({"postgres": {"embedded": embedded}}), "StatefulSet", "windlass-postgres")


def test_there_is_no_database_unless_asked_for() -> None:
    assert not [o for o in render() if "postgres" in o["metadata"]["name"]]


def test_the_password_is_made_in_the_cluster_by_the_first_container() -> None:
    pod = _postgres()["spec"]["template"]["spec"]
    (secret,) = pod["initContainers"]
    assert secret["args"] == [
        "bootstrap-postgres",
        "--secret=windlass-postgres",
        f"--host=windlass-postgres.{NAMESPACE}.svc.cluster.local",
    ]
    assert env(pod["containers"][0])["POSTGRES_PASSWORD"]["valueFrom"]["secretKeyRef"] == {
        "name": "windlass-postgres",
        "key": "password",
    }


def test_only_the_first_container_reaches_the_api_server() -> None:
    pod = _postgres()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    mounts = {c["name"]: [m["name"] for m in c["volumeMounts"]] for c in containers(pod)}
    assert "api-access" in mounts["secret"]
    assert "api-access" not in mounts["postgres"]
    assert not [v for v in pod["volumes"] if "secret" in v], "a Secret as a volume would hold up the one that makes it"


def test_the_data_outlives_the_statefulset() -> None:
    spec = _postgres()["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert "storageClassName" not in claim["spec"], "the cluster's default"
    named = _postgres({"persistence": {"storageClassName": "fast", "size": "1Gi"}})["spec"]["volumeClaimTemplates"][0]
    assert named["spec"]["storageClassName"] == "fast"
    assert named["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_without_persistence_the_data_is_in_the_pod() -> None:
    spec = _postgres({"persistence": {"enabled": False}})["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]
