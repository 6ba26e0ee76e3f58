"""The main job, shown: a Task and a Run, a pod killed in the middle, nothing done twice.

Run by ``make demo`` after the cluster is up and the images are in it. Uses kubectl, Helm and ``windlass`` as a user
would.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SYSTEM: Final = "windlass-system"
DEMO: Final = "windlass-demo"


def say(text: str) -> None:
    """Print a headline."""
    print(f"\n\033[1m▸ {text}\033[0m", flush=True)


def run(*command: str, stdin: str | None = None, quiet: bool = False, check: bool = True) -> str:
    """Run a command and return what it printed; show it unless quiet."""
    if not quiet:
        print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False, cwd=ROOT, env=_env())
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    if not quiet:
        print(done.stdout, end="", flush=True)
    return done.stdout


def _env() -> dict[str, str]:
    tools = f"{ROOT / '.cluster/bin'}:{ROOT / '.venv/bin'}"
    kubeconfig = os.environ.get("KUBECONFIG") if os.environ.get("WINDLASS_CLUSTER") == "existing" else None
    return {
        **os.environ,
        "WINDLASS_SERVICE_ACCOUNT": "developer",
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KUBECONFIG": kubeconfig or str(ROOT / ".cluster/kubeconfig"),
    }


def kubectl(*arguments: str, stdin: str | None = None, quiet: bool = False, check: bool = True) -> str:
    """Run kubectl."""
    return run("kubectl", *arguments, stdin=stdin, quiet=quiet, check=check)


def apply(manifest: dict[str, Any], *, quiet: bool = True) -> None:
    """Apply one object."""
    kubectl("apply", "-f", "-", stdin=json.dumps(manifest), quiet=quiet)


def namespace(name: str) -> None:
    """Make a namespace in which only restricted pods start."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def install(*more: str) -> None:
    """Install the release with everything that the cluster offers: the embedded database, and S3 where there is one.

    Args:
        more: Further arguments of Helm.
    """
    namespace(SYSTEM)
    values = [
        "--set",
        "postgres.embedded.enabled=true",
        "--set",
        "postgres.embedded.persistence.size=2Gi",
        "--set",
        "image.tag=dev",
    ]
    values += ["--set", "postgres.embedded.image.tag=dev"]
    registry = os.environ.get("IMAGE_REGISTRY")
    if registry:
        values += ["--set", f"global.imageRegistry={registry}"]
    if os.environ.get("WINDLASS_CLUSTER") != "existing":
        s3 = json.loads(run(sys.executable, "-m", "e2e.cluster", "s3-env", quiet=True))
        metadata = {"name": "windlass-s3", "namespace": SYSTEM}
        apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": s3})
        values += ["--set", "s3.enabled=true"]
    run(
        "helm",
        "upgrade",
        "--install",
        "windlass",
        "charts/windlass",
        "-n",
        SYSTEM,
        "--wait",
        "--timeout",
        "5m",
        *values,
        *more,
    )


def step_three_runs() -> str:
    """Wait until step 3 runs and return the pod's name."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        found = json.loads(kubectl("get", "run.windlass.dev", "order-1", "-n", DEMO, "-o", "json", quiet=True))
        status = found.get("status") or {}
        if status.get("currentStep") == "ship" and status.get("podName"):
            return str(status["podName"])
        if status.get("state") in ("Succeeded", "Failed"):
            break
        time.sleep(0.2)
    sys.exit(f"step 3 was never seen running; the run's status is {json.dumps(status, indent=2)}")


def person() -> None:
    """Make an account for the person who looks: Kubernetes' own role `edit` extends to Tasks and Runs."""
    apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "developer", "namespace": DEMO}})
    apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "developer", "namespace": DEMO},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "developer", "namespace": DEMO}],
        }
    )


def main() -> None:
    """Show it."""
    say("Install Windlass with Helm")
    install()
    say("A namespace, and a small ledger of side effects outside of Windlass")
    namespace(DEMO)
    kubectl("delete", "run.windlass.dev", "order-1", "-n", DEMO, "--ignore-not-found", quiet=True)
    kubectl("delete", "deployment", "effects", "-n", DEMO, "--ignore-not-found", "--wait=true", quiet=True)
    kubectl("apply", "-n", DEMO, "-f", "examples/effects.yaml")
    kubectl("rollout", "status", "deployment/effects", "-n", DEMO, "--timeout=120s")
    say("A Task and a Run, applied together")
    kubectl("apply", "-n", DEMO, "-f", "examples/order.yaml")
    pod = step_three_runs()
    say("Step 3 of 4 is running. Kill its pod")
    kubectl("get", "runs.windlass.dev", "-n", DEMO)
    kubectl("delete", "pod", pod, "-n", DEMO, "--force", "--grace-period=0")
    say("The run goes on in another pod")
    kubectl("wait", "--for=condition=Succeeded", "run.windlass.dev/order-1", "-n", DEMO, "--timeout=120s")
    kubectl("get", "runs.windlass.dev", "-n", DEMO, "-o", "wide")
    show()


def show() -> None:
    """Show what is left to see: side effects, timeline, logs, result, and how to go on."""
    say("Each side effect happened once; steps 1 and 2 were not repeated")
    code = "import urllib.request; print(urllib.request.urlopen('http://localhost:8000').read().decode())"
    rows = kubectl("exec", "-n", DEMO, "deploy/effects", "--", "python3", "-c", code, quiet=True).strip().splitlines()
    counts: dict[str, int] = {}
    for row in rows:
        print(f"  {row}")
        counts[row.split()[1]] = counts.get(row.split()[1], 0) + 1
    print("  counts:", ", ".join(f"{name} {count}" for name, count in counts.items()))
    if (counts.get("reserve"), counts.get("charge"), counts.get("ship")) != (1, 1, 1):
        sys.exit(f"a finished step was repeated, or one is missing: {counts}")
    person()
    say("The timeline")
    run("windlass", "runs", "get", "order-1", "-n", DEMO)
    say("The log of both attempts")
    run("windlass", "runs", "logs", "order-1", "-n", DEMO)
    say("The result, in the Run's status")
    kubectl("get", "run.windlass.dev", "order-1", "-n", DEMO, "-o", "jsonpath={.status.result}")
    print(f"""

The cluster stays up. Go on by hand:
  export KUBECONFIG={_env()["KUBECONFIG"]} PATH={ROOT}/.cluster/bin:{ROOT}/.venv/bin:$PATH
  export WINDLASS_SERVICE_ACCOUNT=developer
  kubectl explain task.spec.retry --api-version=windlass.dev/v1alpha1
  windlass run order -n {DEMO} --payload '{{"orderId": 8}}' --follow
  kubectl get windlass -n {DEMO}
  make cluster-down""")


if __name__ == "__main__":
    main()
