"""Approval resources, where the API server's answer must not be taken for more than it says."""

from collections.abc import AsyncIterator

import pytest

from tests.support.kube_server import KubeServer, Scripted, kube_server, status
from tests.unit.resources.test_approval import DECIDED, an_approval
from windlass_operator.domain.approvals import ApprovalNameTakenError
from windlass_operator.kube.approvals import KubeApprovals, manifest
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeConflictError

EXISTS = status(409, "AlreadyExists", name="order-abc", kind="approvals")
ABSENT = status(404, "NotFound", name="order-abc", kind="approvals")
OURS = Scripted(200, {"metadata": {"uid": "u1"}, "spec": manifest(an_approval())["spec"]})


@pytest.fixture
async def kube() -> AsyncIterator[KubeServer]:
    async with kube_server() as server:
        yield server


async def test_one_that_is_there_already_is_found_and_not_made_twice(kube: KubeServer) -> None:
    kube.will(EXISTS, OURS)
    assert await KubeApprovals(kube.client).create(an_approval(uid=None)) == "u1"
    assert [seen.method for seen in kube.seen] == ["POST", "GET"]


async def test_something_else_of_that_name_is_not_taken_for_ours(kube: KubeServer) -> None:
    kube.will(EXISTS, Scripted(200, {"metadata": {"uid": "u2"}, "spec": {"runId": "another"}}))
    with pytest.raises(ApprovalNameTakenError):
        await KubeApprovals(kube.client).create(an_approval(uid=None))
    kube.will(EXISTS, ABSENT)
    with pytest.raises(KubeConflictError):
        await KubeApprovals(kube.client).create(an_approval(uid=None))


async def test_a_decision_is_written_into_exactly_that_object(kube: KubeServer) -> None:
    kube.will(OURS)
    assert await KubeApprovals(kube.client).write_decision(an_approval(**DECIDED))
    (seen,) = kube.seen
    assert (seen.method, seen.path) == ("PATCH", "/apis/windlass.dev/v1alpha1/namespaces/shop/approvals/order-abc")
    assert seen.body == {
        "metadata": {"uid": "u1"},
        "spec": {"decision": "Approved", "by": "alice", "comment": "fine"},
    }


@pytest.mark.parametrize("answer", [status(422, "Invalid", "a decision is final"), status(409, "Conflict"), ABSENT])
async def test_a_decision_that_somebody_else_wrote_first_stays(kube: KubeServer, answer: Scripted) -> None:
    kube.will(answer)
    assert not await KubeApprovals(kube.client).write_decision(an_approval(**DECIDED))


async def test_a_missing_permission_is_no_decision_of_somebody_else(kube: KubeServer) -> None:
    kube.will(status(403, "Forbidden", 'User "windlass" cannot patch approvals'))
    with pytest.raises(ForbiddenByPolicyError):
        await KubeApprovals(kube.client).write_decision(an_approval(**DECIDED))


async def test_listed_namespaces_are_looked_at_one_by_one(kube: KubeServer) -> None:
    kube.will(Scripted(200, {"items": [OURS.body]}))
    found = [body async for body in KubeApprovals(kube.client, namespaces=("bank", "shop")).each()]
    assert len(found) == 2
    assert [seen.path.split("/")[5] for seen in kube.seen] == ["bank", "shop"]
