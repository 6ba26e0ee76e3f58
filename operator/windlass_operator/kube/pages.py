"""Pages of a list, taken apart without building the objects in them: thousands are listed, and few are read."""

from typing import Any, Final

import msgspec

from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.kube.shallow import shallow


class _Metadata(msgspec.Struct):
    more: str | None = msgspec.field(default=None, name="continue")


class _Head(msgspec.Struct):
    metadata: _Metadata | None = None


class _Page(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


_heads: Final = msgspec.json.Decoder(_Head)
_pages: Final = msgspec.json.Decoder(_Page)


def continue_token(page: bytes) -> str | None:
    """Return the token of the next page, or None where this is the last one."""
    head: _Head = _decoded(_heads, page)
    return head.metadata.more if head.metadata and head.metadata.more else None


def items_of(page: bytes) -> list[bytes]:
    """Return the objects of a page, each as JSON; what is too deep in them to be read is cut."""
    found: _Page = _decoded(_pages, page)
    return [bytes(item) for item in found.items or ()]


def _decoded(decoder: "msgspec.json.Decoder[Any]", page: bytes) -> Any:
    try:
        try:
            return decoder.decode(page)
        except RecursionError:
            return decoder.decode(shallow(page))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise KubeUnavailableError(f"The API server's answer cannot be read: {error}") from error
