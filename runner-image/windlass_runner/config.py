"""What the pod's environment tells the runner."""

import os
from collections.abc import Mapping

TYPE_CHECKING = False  # as in the SDK: to import `typing` costs milliseconds of every start
if TYPE_CHECKING:
    from typing import Literal


class Config:
    """Read once at the start.

    Attributes:
        url: Of the API (``WINDLASS_URL``).
        pod_name: ``POD_NAME``.
        pod_uid: ``POD_UID``.
        preload: Module to import while the claim is under way (``WINDLASS_PRELOAD``), or None.
        secrets: Values that must not appear in logs: those of the variables that ``WINDLASS_SECRET_ENV`` lists.
        grace: Seconds that a child may go on after SIGTERM (``WINDLASS_GRACE``, 15): the pod's termination grace is 20.
        standby: Whether this pod was started before any run needed it (``WINDLASS_STANDBY``): it has time to get ready.
        wait_ms: How long a claim waits for work (``WINDLASS_CLAIM_WAIT_MS``, 10,000; 25,000 of a standby pod).
        claim_id: Random; repeats of the claim and its withdrawal carry it too.
        claim_patience: Seconds that an unreachable API is waited for before anything is claimed
            (``WINDLASS_CLAIM_PATIENCE``, 120).
        report_patience: Seconds that the end of an attempt waits for an unreachable API
            (``WINDLASS_REPORT_PATIENCE``, 1,800).
        max_age: Seconds after which a pod of a pool takes no more runs (``WINDLASS_MAX_AGE``, without limit).
        in_process: Whether attempts share one process (``WINDLASS_EXECUTION=InProcess``) instead of a child for each.
        max_runs_per_process: Runs after which such a process is replaced, or a child
            (``WINDLASS_MAX_RUNS_PER_PROCESS``); 0: never.
        max_runs: Runs after which it takes no more (``WINDLASS_MAX_RUNS``); 0: without limit.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        missing = [name for name in ("WINDLASS_URL", "POD_NAME", "POD_UID") if not env.get(name)]
        if missing:
            raise SystemExit(
                f"windlass-runner: {', '.join(missing)} not set. This image is started by the Windlass operator; "
                "to try a task by hand use the SDK's testing kit."
            )
        self.url = env["WINDLASS_URL"]
        self.pod_name = env["POD_NAME"]
        self.pod_uid = env["POD_UID"]
        self.preload = env.get("WINDLASS_PRELOAD") or None
        names = [n for n in env.get("WINDLASS_SECRET_ENV", "").split(",") if n]
        self.secrets = [env[n] for n in names if n in env]
        self.grace = float(env.get("WINDLASS_GRACE") or 15)
        self.standby = bool(env.get("WINDLASS_STANDBY"))
        self.wait_ms = int(env.get("WINDLASS_CLAIM_WAIT_MS") or (25_000 if self.standby else 10_000))
        self.claim_id = os.urandom(16).hex()
        self.claim_patience = float(env.get("WINDLASS_CLAIM_PATIENCE") or 120)
        self.report_patience = float(env.get("WINDLASS_REPORT_PATIENCE") or 1800)
        self.max_age = float(env.get("WINDLASS_MAX_AGE") or "inf")
        self.max_runs = int(env.get("WINDLASS_MAX_RUNS") or 0)
        self.in_process = in_process(env)
        self.max_runs_per_process = int(env.get("WINDLASS_MAX_RUNS_PER_PROCESS") or 0)
        self._credential = env.get("WINDLASS_CREDENTIAL")
        self._credential_file = env.get("WINDLASS_CREDENTIAL_FILE")

    def credential(self) -> tuple[str, bool]:
        """Return the pod's credential, and whether it is a projected token, which is read anew for each use."""
        if self._credential:
            return self._credential, False
        if self._credential_file:
            with open(self._credential_file) as file:  # noqa: PTH123 - pathlib would cost milliseconds of every start
                return file.read().strip(), True
        raise SystemExit("windlass-runner: neither WINDLASS_CREDENTIAL nor WINDLASS_CREDENTIAL_FILE is set.")


def in_process(env: Mapping[str, str]) -> bool:
    """Return whether attempts of this pod share one process."""
    return env.get("WINDLASS_EXECUTION") == "InProcess"


def user_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for user code: everything but the pod's credential."""
    return {k: v for k, v in env.items() if not k.startswith("WINDLASS_CREDENTIAL")}


def arm_failpoints(role: "Literal['runner', 'child']") -> None:
    """Install failpoints in this process, where they are asked for; see :mod:`windlass.failpoints`."""
    if "WINDLASS_FAILPOINTS" in os.environ:
        from windlass import failpoints

        try:
            failpoints.install(role)
        except failpoints.FailpointsRefusedError as error:
            raise SystemExit(f"windlass-runner: {error}") from None


def forget_credential() -> None:
    """Take the credential out of this process's own environment."""
    for name in [n for n in os.environ if n.startswith("WINDLASS_CREDENTIAL")]:
        del os.environ[name]
