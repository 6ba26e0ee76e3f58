"""Events of Runs that only say what we have just written: taken out of the stream before kopf sees them.

Each status that we write comes back as an event. Kopf and our services need a millisecond or two to find nothing new in
it, which is more than it costs to write it. What is taken out leaves a bookmark behind: the watch goes on from there.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from windlass_operator.kube.run_head import RunHead
from windlass_operator.resources.names import API_VERSION, RUN_KIND

ShowsNothingNew = Callable[[str, int, str | None], bool]
"""Whether a Run of this UID, generation and ``status.runId`` says nothing that was not acted upon."""


class _Event(msgspec.Struct):
    type: str
    object: RunHead


_MODIFIED: Final = b'{"type":"MODIFIED"'
_decoder: Final = msgspec.json.Decoder(_Event)


def without_echo(line: bytes, shows_nothing_new: ShowsNothingNew) -> bytes:
    """Return a line of a watch, or a bookmark in the place of one that says nothing new.

    Whatever is not understood stays: so does an event of another kind, an addition, a deletion, and every event of a
    Run that is being deleted.
    """
    if not line.startswith(_MODIFIED):
        return line
    try:
        event = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return line
    run = event.object
    if (run.api_version, run.kind) != (API_VERSION, RUN_KIND) or run.metadata.deletion_timestamp is not None:
        return line
    if not shows_nothing_new(run.metadata.uid, run.metadata.generation, run.run_id):
        return line
    kept = {
        "apiVersion": run.api_version,
        "kind": run.kind,
        "metadata": {"resourceVersion": run.metadata.resource_version},
    }
    return msgspec.json.encode({"type": "BOOKMARK", "object": kept})
