"""What a runner's exit code says. The operator reads it from the pod's status."""

from typing import Final

DONE: Final = 0
"""The run has its result, or was handed back because the pod had to stop."""
USER_FAILURE: Final = 1
"""The attempt failed and the failure was reported."""
LEASE_LOST: Final = 3
"""The attempt was closed by somebody else; the child was ended and nothing more was written."""
API_UNREACHABLE: Final = 4
"""The API refused this pod, or could not be reached for as long as the runner waits."""
NOTHING_TO_CLAIM: Final = 5
"""Nothing came within the wait: nobody's attempt."""
ZYGOTE_BROKEN: Final = 6
"""The process that starts user code ends before it has started any, again and again."""
