"""The annotations that keep a pod, and what they leave behind."""

import pytest

from windlass_operator.kube.protection import annotations, is_marked


def test_a_protected_pod_carries_what_cluster_tools_read() -> None:
    assert annotations({}, protected=True) == {
        "windlass.dev/do-not-disrupt": "true",
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


def test_what_the_template_says_holds_again_afterwards() -> None:
    own = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true", "team": "shop"}
    assert annotations({"metadata": {"annotations": own}}, protected=False) == {
        "windlass.dev/do-not-disrupt": None,
        "karpenter.sh/do-not-disrupt": None,
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
    }


@pytest.mark.parametrize("template", [{}, {"metadata": None}, {"metadata": {"annotations": None}}])
def test_without_a_word_of_the_template_all_of_them_go(template: dict[str, object]) -> None:
    assert set(annotations(template, protected=False).values()) == {None}


@pytest.mark.parametrize("body", [None, "pod", {}, {"metadata": 7}, {"metadata": {"annotations": ["x"]}}])
def test_junk_is_not_marked(body: object) -> None:
    assert not is_marked(body)


def test_a_pod_is_known_by_our_own_annotation() -> None:
    assert is_marked({"metadata": {"annotations": {"windlass.dev/do-not-disrupt": "true"}}})
    assert not is_marked({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}})
