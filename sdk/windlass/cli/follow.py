"""Following a run: its log and its steps as they come, over lost connections, to its end.

The cursor of the log moves only after a page was shown, and a page is asked for by the cursor. So a connection that is
lost in the middle of an answer costs a repeated question and neither loses a line nor shows one twice.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote

from windlass.cli.connect import Access
from windlass.client import Client
from windlass.errors import ApiError

_PAGE: Final = 5_000
_SOONEST: Final = 1.0
_LATEST: Final = 5.0
"""Seconds between looks at the steps: at once while something happens, less often in a long silence. Lines and the end
of the run come at once in either case, because the request for them waits at the API."""
_LONGEST_PAUSE: Final = 5.0
_PASSING: Final = frozenset({0, 408, 429, 500, 502, 503, 504})


class View(Protocol):
    """Shows what the follower sees."""

    def lines(self, items: list[dict[str, Any]]) -> None:
        """Show log lines; when this returns they have been shown."""
        ...

    def progress(self, run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        """Show where the run stands, and those of its steps that are new or have changed."""
        ...

    def trouble(self, error: ApiError | None) -> None:
        """Say that the API does not answer, and that it is tried again; None when it answers again."""
        ...


@dataclass
class Steps:
    """The steps of one run as last seen. A page whose steps have all succeeded is not read again."""

    after: Any = 0
    states: dict[str, str] = field(default_factory=dict)

    def read(self, client: Client, run: str) -> list[dict[str, Any]]:
        """Return the steps that are new or have another state, in order."""
        changed, after, settled = [], self.after, True
        while after is not None:
            page = client.call("GET", f"runs/{quote(run, safe='')}/steps", query={"after": after})
            for step in page["items"]:
                settled &= step["state"] == "succeeded"
                seen = f"{step['state']}/{step['attempt']}/{step.get('tries', 1)}"
                if self.states.get(step["key"]) != seen:
                    self.states[step["key"]] = seen
                    changed.append(step)
            after = page["nextCursor"]
            if settled and after is not None:
                self.after = after
        return changed


class Follower:
    """Follows one run.

    Args:
        access: How the API is reached; renews what has ended meanwhile.
        client: The API.
        run: Id or resource name.
        view: Where it is shown.
        pause: Waits between tries; a test passes its own.
        clock: Seconds; a test passes its own.
    """

    def __init__(
        self,
        access: Access,
        client: Client,
        run: str,
        view: View,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access, self._client, self._run, self._view = access, client, run, view
        self._pause, self._clock = pause, clock
        self._until = clock() + access.timeout.total_seconds() if access.timeout else None
        self._cursor = "0.0"
        self._steps = Steps()
        self._counts: Any = None

    def follow(self) -> dict[str, Any]:
        """Show everything until the run's end and return the run.

        Raises:
            ApiError: The API refused for a reason that does not pass, or ``--timeout`` is over.
        """
        quiet_since = self._clock()
        finished = False
        while not finished:
            wait = min(_LATEST, max(_SOONEST, (self._clock() - quiet_since) / 10))
            page = self._patiently(lambda wait=wait: self._page(wait))  # type: ignore[misc]
            if page["items"]:
                quiet_since = self._clock()
                self._view.lines(page["items"])
            self._cursor, finished = page["nextCursor"], page["finished"]
            if self._patiently(self._progress):
                quiet_since = self._clock()
            if not finished:
                self._check_time()
        run: dict[str, Any] = self._patiently(lambda: self._client.get(self._run))
        return run

    def _page(self, wait: float) -> dict[str, Any]:
        query = {"after": self._cursor, "wait": f"{round(wait * 1000)}ms", "limit": _PAGE}
        path = f"runs/{quote(self._run, safe='')}/logs"
        page: dict[str, Any] = self._client.call("GET", path, query=query, timeout=wait + 20)
        return page

    def _progress(self) -> bool:
        run = self._client.get(self._run)
        counts = (run["state"], run.get("attempt"), run.get("reason"), run.get("steps"), run.get("currentStep"))
        if counts == self._counts:
            return False
        # Read first: if that fails, the next look must find the same difference.
        changed = self._steps.read(self._client, self._run) if any((run.get("steps") or {}).values()) else []
        self._counts = counts
        self._view.progress(run, changed)
        return True

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Ask until there is an answer. What passes is waited out; what does not is raised."""
        failures, renewed = 0, False
        while True:
            try:
                answer = ask()
            except ApiError as error:
                if error.status == 401 and not renewed and self._access.asks_kubectl_for_token:
                    renewed = True
                elif error.status not in _PASSING or error.code == "NotConfigured":
                    raise
                failures += 1
                if failures == 2:  # one lost connection is nobody's business
                    self._view.trouble(error)
                self._check_time()
                self._pause(random.uniform(0.5, 1) * min(_LONGEST_PAUSE, 0.2 * 2**failures))  # noqa: S311 - jitter
                self._mend(error)
            else:
                if failures > 1:
                    self._view.trouble(None)
                return answer

    def _mend(self, error: ApiError) -> None:
        try:
            self._access.mend(self._client, error)
        except ApiError:
            return  # kubectl cannot reach the cluster either; the next try finds out

    def _check_time(self) -> None:
        if self._until is not None and self._clock() >= self._until:
            raise ApiError(
                "Timeout",
                f"Run {self._run} has not ended within --timeout. It goes on.",
                hint=how_to_go_on(self._run, self._access),
            )


def how_to_go_on(run: str, access: Access) -> str:
    """Return what to type to see the rest, or to end the run."""
    flags = access.flags()
    return f"`windlass runs logs {run} --follow{flags}` goes on; `windlass runs cancel {run}{flags}` ends it."
