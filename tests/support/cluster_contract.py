"""What every cluster promises to the services: Kubernetes, local mode, and the fakes that tests put in their place.

A suite takes part by deriving from :class:`ClusterContract` and giving a ``subject``.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.support.eventually import eventually
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan
from windlass_operator.domain.project import Project
from windlass_operator.kube.errors import KubeNotFoundError

PARTS = PodParts(image="windlass.invalid/none:1", preload=None, source_hash=None)
SOURCE = "from windlass import task\n\n@task\ndef process():\n    return 1\n"


@dataclass
class Subject:
    """A cluster, and what a person with kubectl does to it.

    Attributes:
        cluster: What is held to the contract.
        namespace: One that is there.
        apply_task: Creates a Task of this name with this spec, and returns its UID.
        apply_run: Creates a Run of this name for a Task that does not exist, and returns its UID.
        every_namespace_exists: There is nobody who could create or delete one.
        watched: An operator is at work, and writes statuses too.
    """

    cluster: Any
    namespace: str
    apply_task: Callable[[str, dict[str, Any]], Awaitable[str]]
    apply_run: Callable[[str], Awaitable[str]]
    every_namespace_exists: bool = False
    watched: bool = False

    def plan(self) -> PodPlan:
        """Return a new plan."""
        return PodPlan(f"order-{uuid4().hex[-12:]}", self.namespace, "0" * 16, "order")


class ClusterContract:
    """The promises."""

    async def test_a_namespace_is_the_same_project_each_time(self, subject: Subject) -> None:
        found = await subject.cluster.project(subject.namespace)
        assert found == await subject.cluster.project(subject.namespace)
        assert found.namespace == subject.namespace
        assert not await subject.cluster.is_gone(found)

    async def test_a_namespace_of_another_uid_is_gone(self, subject: Subject) -> None:
        assert await subject.cluster.is_gone(Project("another", subject.namespace))

    async def test_a_namespace_that_is_not_there_is_an_error_and_gone(self, subject: Subject) -> None:
        if subject.every_namespace_exists:
            pytest.skip("every namespace exists here")
        with pytest.raises(KubeNotFoundError):
            await subject.cluster.project("nowhere")
        assert await subject.cluster.is_gone(Project("u", "nowhere"))

    async def test_a_task_is_read_as_it_is_now_and_none_where_there_is_none(self, subject: Subject) -> None:
        assert await subject.cluster.read_task(subject.namespace, "order") is None
        spec = {"entrypoint": "order:process", "source": {"inline": SOURCE}, "retry": {"maxAttempts": 7}}
        uid = await subject.apply_task("order", spec)
        snapshot = await subject.cluster.read_task(subject.namespace, "order")
        assert (snapshot.entrypoint, snapshot.source, snapshot.retry.max_attempts) == ("order:process", SOURCE, 7)
        write = subject.cluster.patch_task_status
        assert await write(subject.namespace, "order", uid, {"observedGeneration": 1})
        assert not await write(subject.namespace, "nothing", uid, {"observedGeneration": 1})

    async def test_a_plan_is_one_pod_however_often_it_is_created(self, subject: Subject) -> None:
        await subject.cluster.ensure_credential(subject.namespace, "fresh")
        plan = subject.plan()
        uid = await subject.cluster.create_pod(plan, PARTS)
        assert await subject.cluster.create_pod(plan, PARTS) == uid
        listed = [seen for seen in await subject.cluster.list_pods() if seen.name == plan.name]
        assert [(seen.uid, seen.namespace, seen.exists) for seen in listed] == [(uid, subject.namespace, True)]
        assert (await subject.cluster.see_pod(subject.namespace, plan.name)).uid == uid
        await subject.cluster.delete_pod(subject.namespace, plan.name, uid)

    async def test_a_pod_goes_by_its_uid_and_that_it_is_gone_already_is_fine(self, subject: Subject) -> None:
        await subject.cluster.ensure_credential(subject.namespace, "fresh")
        plan = subject.plan()
        uid = await subject.cluster.create_pod(plan, PARTS)
        await subject.cluster.delete_pod(subject.namespace, plan.name, "another")
        assert (await subject.cluster.see_pod(subject.namespace, plan.name)).exists
        await subject.cluster.delete_pod(subject.namespace, plan.name, uid)

        async def gone() -> bool:
            seen = await subject.cluster.see_pod(subject.namespace, plan.name)
            return seen is None or not seen.exists

        await eventually(gone)
        await subject.cluster.delete_pod(subject.namespace, plan.name, uid)
        assert await subject.cluster.see_pod(subject.namespace, "never-was") is None

    async def test_a_pod_is_marked_and_released_by_its_uid(self, subject: Subject) -> None:
        await subject.cluster.ensure_credential(subject.namespace, "fresh")
        plan = subject.plan()
        uid = await subject.cluster.create_pod(plan, PARTS)
        mark = subject.cluster.mark_pod
        template: dict[str, Any] = {"metadata": {"annotations": {}}}
        for protected in (True, True, False, False):
            assert await mark(subject.namespace, plan.name, uid, template, protected=protected)
            if subject.cluster.disrupts_pods:
                assert (await subject.cluster.see_pod(subject.namespace, plan.name)).marked is protected
        assert not await mark(subject.namespace, plan.name, str(uuid4()), template, protected=True)
        assert not (await subject.cluster.see_pod(subject.namespace, plan.name)).marked
        assert not await mark(subject.namespace, "never-was", str(uuid4()), template, protected=True)
        await subject.cluster.delete_pod(subject.namespace, plan.name, uid)

    async def test_the_history_of_a_pod_is_events_and_lines_also_where_there_are_none(self, subject: Subject) -> None:
        found = await subject.cluster.pod_history(subject.namespace, "never-was", str(uuid4()), exists=False)
        assert found == {"events": [], "lines": []}

    async def test_a_namespace_has_one_credential(self, subject: Subject) -> None:
        first = await subject.cluster.ensure_credential(subject.namespace, "one")
        assert await subject.cluster.ensure_credential(subject.namespace, "two") == first

    async def test_a_run_is_found_by_name_and_in_the_list(self, subject: Subject) -> None:
        assert await subject.cluster.run_uid(subject.namespace, "order-1") is None
        uid = await subject.apply_run("order-1")
        assert await subject.cluster.run_uid(subject.namespace, "order-1") == uid
        (seen,) = [run async for run in subject.cluster.each_run() if run.uid == uid]
        assert (seen.generation, seen.deleting) == (1, False)
        assert seen.body()["spec"]["taskRef"] == {"name": "missing"}

    async def test_a_status_is_written_to_the_run_of_that_uid_and_to_no_other(self, subject: Subject) -> None:
        uid = await subject.apply_run("order-1")
        write = subject.cluster.patch_run_status
        run_id = str(uuid4())
        assert not await write(subject.namespace, "order-1", "another", {"runId": run_id, "state": "Queued"})
        assert await write(subject.namespace, "order-1", uid, {"runId": run_id, "state": "Queued"})
        if not subject.watched:
            (seen,) = [run async for run in subject.cluster.each_run() if run.uid == uid]
            assert seen.run_id == run_id
            await subject.cluster.reject_run(subject.namespace, "order-1", uid, "LedgerRegressed", "Why.")
            (seen,) = [run async for run in subject.cluster.each_run() if run.uid == uid]
            assert (seen.run_id, seen.body()["status"]["reason"]) == (run_id, "LedgerRegressed")
        await subject.cluster.delete_run(subject.namespace, "order-1", uid)

    async def test_a_run_is_deleted_by_its_uid_and_once(self, subject: Subject) -> None:
        uid = await subject.apply_run("order-1")
        assert not await subject.cluster.delete_run(subject.namespace, "order-1", "another")
        assert await subject.cluster.delete_run(subject.namespace, "order-1", uid)
        assert not await subject.cluster.delete_run(subject.namespace, "order-1", uid)
        assert not await subject.cluster.patch_run_status(subject.namespace, "order-1", uid, {"state": "Queued"})
