"""The ways to get a pod: the object that is created, and how whoever created it sees that it has succeeded. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.cluster_objects import NAMESPACE, RUNNERS_IMPORTS, job, pod, run
from bench.peers.argo import workflow

OURS: Final = "ours"
PODS: Final = "bare pods"
JOBS: Final = "bare Jobs"
ARGO: Final = "Argo Workflows"
TASK: Final = "first"


@dataclass(frozen=True)
class Kind:
    """One way to get a pod.

    Attributes:
        make: Returns the object for a name and lines of Python; ours has its own Task's code.
        group: Of the API, as in a path.
        plural: As in a path.
        ended: Whether an object's status says that it has succeeded; None if it has failed.
    """

    make: Callable[[str, str], dict[str, Any]]
    group: str
    plural: str
    ended: Callable[[dict[str, Any]], bool | None]

    @property
    def path(self) -> str:
        """Of the list of all of them in the benches' namespace."""
        return f"/{self.group}/namespaces/{NAMESPACE}/{self.plural}"


def _by(key: str, failed: tuple[str, ...]) -> Callable[[dict[str, Any]], bool | None]:
    return lambda status: None if status.get(key) in failed else status.get(key) == "Succeeded"


def _job_ended(status: dict[str, Any]) -> bool | None:
    return None if status.get("failed") else status.get("succeeded") == 1


KINDS: Final = {
    OURS: Kind(
        lambda name, _: run(name, TASK),
        "apis/windlass.dev/v1alpha1",
        "runs",
        _by("state", ("Failed", "TimedOut", "Cancelled")),
    ),
    PODS: Kind(pod, "api/v1", "pods", _by("phase", ("Failed",))),
    JOBS: Kind(job, "apis/batch/v1", "jobs", _job_ended),
    ARGO: Kind(workflow, "apis/argoproj.io/v1alpha1", "workflows", _by("phase", ("Failed", "Error"))),
}


def body(name: str, effect: str, *, imports: bool) -> str:
    """Return the lines of everybody's pod but ours: the time first, then the effect.

    Args:
        name: That the effect bears.
        effect: Lines that tell it.
        imports: Whether to do a runner's imports first, as ours does.
    """
    return f"{RUNNERS_IMPORTS if imports else 'import time'}\nat = time.time()\nname = {name!r}\n{effect}"


def our_body(effect: str) -> str:
    """Return the source of our Task, which does the same."""
    inner = "".join(f"    {line}\n" for line in effect.splitlines())
    head = "import time\nfrom windlass import current_run, task\n\n@task\ndef main():\n    at = time.time()\n"
    return f"{head}    name = current_run().name\n{inner}    return at\n"
