"""The few fields of a Run that tell whether it must be read as a whole, found without building the rest of it."""

from datetime import datetime
from typing import Any, Final

import msgspec

from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.kube.transport import json_body


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str
    generation: int
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: str | None = None


class _Status(msgspec.Struct, rename="camel"):
    run_id: str | None = None
    state: str | None = None
    reason: str | None = None


class RunHead(msgspec.Struct, rename="camel"):
    """What is read of a Run; objects of lists may lack the first two."""

    metadata: _Metadata
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None

    @property
    def run_id(self) -> str | None:
        """The run that the status names."""
        return self.status.run_id if self.status else None


_decoder: Final = msgspec.json.Decoder(RunHead)


def see_run(text: bytes | msgspec.Raw) -> RunSeen:
    """Return what a list shows of a Run, from its JSON. One whose fields are not of our kinds is read as a whole."""

    def body() -> dict[str, Any]:
        found = json_body(bytes(text))
        return found if isinstance(found, dict) else {}

    try:
        head = _decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return _see_whole(body())
    meta, status = head.metadata, head.status or _Status()
    return RunSeen(
        meta.uid,
        meta.generation,
        status.run_id,
        meta.deletion_timestamp is not None,
        body,
        namespace=meta.namespace,
        name=meta.name,
        state=status.state,
        reason=status.reason,
        created=meta.creation_timestamp,
    )


def _see_whole(body: dict[str, Any]) -> RunSeen:
    """With a generation that no resource has: it is never taken for one that is known."""
    meta, status = _mapping(body.get("metadata")), _mapping(body.get("status"))
    return RunSeen(
        str(meta.get("uid")),
        -1,
        None,
        False,
        lambda: body,
        namespace=str(meta.get("namespace") or ""),
        name=str(meta.get("name") or ""),
        state=_word(status.get("state")),
        reason=_word(status.get("reason")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None
